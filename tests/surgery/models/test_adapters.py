"""LoRA and BitFit on every encoder: what trains, what is kept, and that it loads everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from surgery import apply_delta, load
from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.merge import ADAPTER_FILE, RECORD
from surgery.checkpoints.record import CheckpointRecord
from surgery.data.tokens.dataset import Batch
from surgery.data.tokens.tokenize import encode
from surgery.errors import CheckpointMismatch, SelectionMismatch
from surgery.models.blocks import model_inputs
from surgery.models.layers import is_bias
from surgery.models.loading import LoadedModel
from surgery.models.trainable import frozen_digests, merged_state, train_adapter, unadapted_state
from surgery.schemas.enums import Problem
from surgery.schemas.options.adapter import AdapterSpec
from surgery.training.optimizer import Loss
from tests.support.models.checkpoints import LABELS, loaded_from, task
from tests.support.models.checkpoints import write_checkpoint as write_base
from tests.support.models.encoders import CONFIGS, tiny
from tests.support.models.trained_step import AUTO, logits_of

LORA = AdapterSpec(type="lora", rank=2, alpha=8)
BITFIT = AdapterSpec(type="bitfit")
WITHOUT_BIASES = {"modernbert"}
PROBLEMS = [("bert", problem) for problem in Problem] + [("funnel", Problem.TOKEN_CLASSIFICATION)]
CASES = sorted({(kind, Problem.CLASSIFICATION) for kind in CONFIGS} | set(PROBLEMS))


def prepared(folder: Path, kind: str, problem: Problem) -> tuple[LoadedModel, Batch]:
    data = task(problem)
    loaded = loaded_from(write_base(folder, kind), data)
    return loaded, encode(data.train, loaded.tokenizer, 16).batch([0, 1, 2, 3])


def step(loaded: LoadedModel, batch: Batch, problem: Problem, trained: dict[str, Any]) -> None:
    """Two steps: B is zero at first, and A has no gradient then."""
    optimizer = torch.optim.Adam(trained.values(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        logits = loaded.model(**model_inputs(loaded.model, batch)).logits
        Loss(problem).total(logits, batch["labels"]).backward()
        optimizer.step()


def record_of(adapter: AdapterSpec, problem: Problem) -> CheckpointRecord:
    return CheckpointRecord(
        layers=[], included=[], problem=problem.value, labels=LABELS[problem],
        metrics={"accuracy": 0.5}, epoch=1, step=2, adapter=adapter.model_dump(),
    )  # fmt: skip


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize(("kind", "problem"), CASES)
def test_lora_is_kept_as_peft_keeps_it_and_loads_four_ways(
    kind: str, problem: Problem, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    loaded, batch = prepared(base, kind, problem)
    before = logits_of(loaded.model, batch)
    trained = train_adapter(loaded, LORA, seed=0)
    close(logits_of(loaded.model, batch), before)
    step(loaded, batch, problem, trained)
    after = logits_of(loaded.model, batch)
    assert (after - before).abs().max() > 1e-3
    record = record_of(LORA, problem)
    write_checkpoint(tmp_path / "adapter", loaded, list(trained), "adapter", record)
    write_checkpoint(tmp_path / "full", loaded, list(trained), "full", record)
    for folder in ("adapter", "full"):
        close(logits_of(load(base, tmp_path / folder), batch), after)
    plain, info = AUTO[problem].from_pretrained(tmp_path / "full", output_loading_info=True)
    assert not any(info.values()), info
    close(logits_of(plain.eval(), batch), after)
    close(logits_of(by_the_card(tmp_path / "adapter", base), batch), after)


def by_the_card(folder: Path, base: Path) -> nn.Module:
    """Run the recipe of the card, with the folders in place."""
    text = (folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    recipe = code[1].replace("<this folder>", str(folder)).replace('"base"', f'"{base}"')
    names: dict[str, Any] = {}
    exec(recipe, names)
    model = names["model"]
    assert isinstance(model, PeftModel)
    plain: nn.Module = model.get_base_model()
    return plain


@pytest.mark.parametrize("kind", CONFIGS)
def test_lora_adapts_every_linear_map_of_the_blocks_and_no_other(kind: str, tmp_path: Path) -> None:
    loaded, batch = prepared(tmp_path / "base", kind, Problem.CLASSIFICATION)
    original = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    blocks = [block.module for block in loaded.blocks]
    linear = {m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)}
    head = set(loaded.head)
    trained = train_adapter(loaded, LORA, seed=0)
    assert len(trained) == 2 * len(linear) + len(head)
    assert {name for name in trained if ".lora_" not in name} == head
    frozen = frozen_digests(loaded.model)
    step(loaded, batch, Problem.CLASSIFICATION, trained)
    assert frozen_digests(loaded.model) == frozen
    left = unadapted_state(loaded.model)
    assert left.keys() == merged_state(loaded.model).keys() == original.keys()
    assert all(torch.equal(left[name], original[name]) for name in original.keys() - head)


def test_the_seed_alone_draws_the_matrices(tmp_path: Path) -> None:
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        loaded, _ = prepared(tmp_path / str(number), "bert", Problem.CLASSIFICATION)
        trained = train_adapter(loaded, LORA, seed)
        drawn.append(next(p for name, p in trained.items() if ".lora_A." in name))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - WITHOUT_BIASES))
def test_bitfit_trains_the_biases_and_the_head_alone(kind: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    loaded, batch = prepared(base, kind, Problem.CLASSIFICATION)
    original = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    trained = train_adapter(loaded, BITFIT, seed=0)
    step(loaded, batch, Problem.CLASSIFICATION, trained)
    changed = {n for n, p in loaded.model.named_parameters() if not torch.equal(p, original[n])}
    assert changed <= trained.keys() == {n for n in original if is_bias(n)} | loaded.head.keys()
    flat = {name: original[name].dim() == 1 for name in trained.keys() - loaded.head.keys()}
    assert all(is_one or kind in {"xlnet", "funnel"} for is_one in flat.values())  # r_w_bias
    assert len(changed) > len(trained) / 2
    record = record_of(BITFIT, Problem.CLASSIFICATION)
    write_checkpoint(tmp_path / "delta", loaded, list(trained), "delta", record)
    assert load_file(tmp_path / "delta" / "delta.safetensors").keys() >= trained.keys()
    close(logits_of(load(base, tmp_path / "delta"), batch), logits_of(loaded.model, batch))


def test_a_model_without_biases_is_told_so(tmp_path: Path) -> None:
    loaded, _ = prepared(tmp_path / "base", "modernbert", Problem.CLASSIFICATION)
    with pytest.raises(SelectionMismatch, match="no biases; use adapter type lora") as raised:
        train_adapter(loaded, BITFIT, seed=0)
    assert raised.value.faults[0].pointer == "/adapter/type"


def test_an_adapter_is_small_and_says_what_it_is(tmp_path: Path) -> None:
    loaded, batch = prepared(tmp_path / "base", "bert", Problem.CLASSIFICATION)
    trained = train_adapter(loaded, LORA, seed=0)
    step(loaded, batch, Problem.CLASSIFICATION, trained)
    folder = tmp_path / "adapter"
    record = record_of(LORA, Problem.CLASSIFICATION)
    write_checkpoint(folder, loaded, list(trained), "adapter", record)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (2, 8, "LORA")
    assert settings["task_type"] == "SEQ_CLS"
    told = json.loads((folder / RECORD).read_text())
    assert told["format"] == "layer-surgeon/adapter/1"
    assert told["adapter"]["rank"] == 2
    kept = load_file(folder / ADAPTER_FILE)
    assert {f"base_model.model.{name}" for name in told["trained"]} == kept.keys()
    assert sum(t.numel() for t in kept.values()) == sum(p.numel() for p in trained.values())
    assert "by LoRA of rank 2" in (folder / "README.md").read_text()


def test_an_adapter_is_not_put_on_as_a_delta_nor_on_another_base(tmp_path: Path) -> None:
    loaded, _ = prepared(tmp_path / "base", "bert", Problem.CLASSIFICATION)
    trained = train_adapter(loaded, LORA, seed=0)
    folder = tmp_path / "adapter"
    record = record_of(LORA, Problem.CLASSIFICATION)
    write_checkpoint(folder, loaded, list(trained), "adapter", record)
    with pytest.raises(CheckpointMismatch, match=r"use surgery\.load"):
        apply_delta(tiny("bert", dtype=torch.float32), folder)
    other = write_base(tmp_path / "other", "distilbert")
    with pytest.raises(CheckpointMismatch, match="not the base"):
        load(other, folder)
