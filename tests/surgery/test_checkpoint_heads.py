"""Checkpoints of every encoder and problem: written, loaded three ways, put together, described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import LABELS, loaded_from, task
from checkpoints import write_checkpoint as write_base
from encoders import CONFIGS, NO_CHOICES, tiny
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgery import apply_delta, load
from surgery.architecture import model_inputs
from surgery.card import HEADS, full_documents
from surgery.checkpoint import write_checkpoint
from surgery.data import Batch
from surgery.encoding import encode
from surgery.errors import CheckpointDamaged, CheckpointMismatch, UnsafeWeights
from surgery.folder import MANIFEST
from surgery.loading import LoadedModel
from surgery.losses import Loss
from surgery.merge import DELTA, RECORD, WEIGHTS_FILE, merge
from surgery.record import CheckpointRecord
from surgery.selection import freeze_all_but, layers_of_model
from surgery.terms import Problem

AUTO = {
    Problem.CLASSIFICATION: transformers.AutoModelForSequenceClassification,
    Problem.REGRESSION: transformers.AutoModelForSequenceClassification,
    Problem.MULTIPLE_CHOICE: transformers.AutoModelForMultipleChoice,
    Problem.TOKEN_CLASSIFICATION: transformers.AutoModelForTokenClassification,
}
TAGS = {
    Problem.CLASSIFICATION: "text-classification",
    Problem.REGRESSION: "text-classification",
    Problem.MULTIPLE_CHOICE: "multiple-choice",
    Problem.TOKEN_CLASSIFICATION: "token-classification",
}
# Every encoder with one problem, every problem with a few encoders.
CASES = sorted(
    {(kind, Problem.TOKEN_CLASSIFICATION) for kind in CONFIGS}
    | {(kind, p) for kind in ("bert", "xlnet", "albert", "fnet", "funnel") for p in Problem}
    | {("deberta-v2", Problem.MULTIPLE_CHOICE), ("modernbert", Problem.MULTIPLE_CHOICE)}
    | {("nomic_bert", Problem.CLASSIFICATION), ("nomic_bert", Problem.REGRESSION)}
)


@dataclass
class Trained:
    """A model after one step, with what its base gives for a batch and what it does."""

    base: Path
    loaded: LoadedModel
    names: list[str]
    batch: Batch
    before: Tensor
    logits: Tensor
    problem: Problem
    dataset: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None

    def write(self, folder: Path, form: Any) -> Path:
        record = CheckpointRecord(
            layers=[block.name for block in self.loaded.blocks[-1:]], included=[],
            problem=self.problem.value, labels=LABELS[self.problem],
            metrics={"accuracy": 0.5, "pearson": None}, epoch=1.5, step=1,
            dataset=self.dataset, parent=self.parent,
        )  # fmt: skip
        write_checkpoint(folder, self.loaded, self.names, form, record)
        return folder

    def gives(self, model: nn.Module, batch: Batch | None = None) -> None:
        """The model gives the logits of the trained one."""
        found = logits_of(model, batch or self.batch)
        torch.testing.assert_close(found, self.logits, rtol=0, atol=1e-6)


@torch.no_grad()
def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(**model_inputs(model, batch)).logits
    return logits


def trained(base: Path, problem: Problem) -> Trained:
    """The checkpoint in ``base``, its last block and a head trained for one step."""
    data = task(problem)
    loaded = loaded_from(base, data)
    parameters = freeze_all_but(loaded, layers_of_model(loaded)[-1:], [])
    batch = encode(data.train, loaded.tokenizer, 16).batch([0, 1, 2, 3])
    before = logits_of(loaded.model, batch)
    logits = loaded.model(**model_inputs(loaded.model, batch)).logits
    Loss(problem).total(logits, batch["labels"]).backward()
    torch.optim.Adam(parameters.values(), lr=0.05).step()
    after = logits_of(loaded.model, batch)
    assert (after - before).abs().max() > 1e-3
    return Trained(base, loaded, list(parameters), batch, before, after, problem)


def merged(trained: Trained, delta: Path, target: Path) -> Path:
    """The full form of a delta, as the service's archive puts it together."""
    target.mkdir()
    weights = merge(delta, [trained.base / file for file in trained.loaded.source.weights])
    chunks: Iterator[bytes] = weights.chunks()
    (target / WEIGHTS_FILE).write_bytes(b"".join(chunks))
    assert (target / WEIGHTS_FILE).stat().st_size == weights.size
    for file in delta.iterdir():
        if file.name not in {DELTA, MANIFEST}:
            (target / file.name).write_bytes(file.read_bytes())
    for name, text in full_documents(json.loads((delta / RECORD).read_text())).items():
        (target / name).write_text(text)
    return target


def plain(folder: Path, problem: Problem) -> nn.Module:
    """What transformers alone makes of a full folder; nothing missing, nothing left over."""
    model, info = AUTO[problem].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    labels = dict(enumerate(LABELS[problem]))
    if labels:
        assert model.config.id2label == labels
        assert model.config.label2id == {label: index for index, label in labels.items()}
    loaded: nn.Module = model.eval()
    return loaded


@pytest.mark.parametrize(("kind", "problem"), [c for c in CASES if c[0] not in NO_CHOICES
                         or c[1] is not Problem.MULTIPLE_CHOICE])  # fmt: skip
def test_delta_and_full_give_what_was_trained(kind: str, problem: Problem, tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", kind), problem)
    delta, full = run.write(tmp_path / "delta", "delta"), run.write(tmp_path / "full", "full")
    together = merged(run, delta, tmp_path / "merged")
    run.gives(load(run.base, delta))
    for folder in (full, together):
        run.gives(load(run.base, folder))
        run.gives(plain(folder, problem))
    tokenizer = transformers.AutoTokenizer.from_pretrained(full)
    run.gives(run.loaded.model, encode(task(problem).train, tokenizer, 16).batch([0, 1, 2, 3]))
    padded = tokenizer.pad([tokenizer("a b"), tokenizer("a b c")], return_tensors="pt")
    assert len({tensor.shape for tensor in padded.values()}) == 1
    # Only what was trained travels: the base holds all else, under whatever name.
    assert load_file(delta / DELTA).keys() == set(run.names)
    entries = [json.loads((folder / "config.json").read_text()) for folder in (delta, full)]
    assert entries[0] == entries[1]
    assert entries[0]["architectures"] == [type(run.loaded.model).__name__]


RECIPES = [(form, head, problem) for problem in Problem for form, head in (
    ("full", None), ("delta", Problem.CLASSIFICATION), ("delta", Problem.TOKEN_CLASSIFICATION),
)]  # fmt: skip


@pytest.mark.parametrize(("form", "head", "problem"), RECIPES)
def test_the_recipe_of_the_card_works(
    form: str, head: Problem | None, problem: Problem, tmp_path: Path
) -> None:
    """Run as it stands, whatever head the base has."""
    run = trained(write_base(tmp_path / "base", "bert", head, labels=5), problem)
    folder = run.write(tmp_path / "ck", form)
    text = (folder / "README.md").read_text()
    assert "| accuracy | 0.5000 |\n| pearson | undefined |" in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace("<this folder>", str(folder)).replace('"base"', repr(str(run.base)))
    names: dict[str, Any] = {}
    exec(code, names)
    run.gives(names["model"].eval())
    own = encode(task(problem).train, names["tokenizer"], 16).batch([0, 1, 2, 3])
    assert torch.equal(own["input_ids"], run.batch["input_ids"])


def metadata(folder: Path) -> Any:
    """The card's, as the Hub's own library reads it; parsing refuses what it could not show."""
    return ModelCard((folder / "README.md").read_text()).data


@pytest.mark.parametrize("problem", Problem)
def test_the_card_is_one_the_hub_understands(problem: Problem, tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), problem)
    run.dataset = {
        "name": "glue/cola", "hub": "nyu-mll/glue", "config": "cola", "revision": None,
        "split": "validation",
    }  # fmt: skip
    data = metadata(run.write(tmp_path / "ck", "delta"))
    assert (data.base_model, data.pipeline_tag) == ("base", TAGS[problem])
    assert data.datasets == ["nyu-mll/glue"]
    assert data.tags == ["layer-surgeon", "surgical-fine-tuning"]
    [result] = data.eval_results  # an undefined metric has no entry
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.5)
    assert (result.task_type, result.dataset_config) == (TAGS[problem], "cola")


def test_a_card_without_metrics_or_dataset(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), Problem.CLASSIFICATION)
    record = CheckpointRecord(
        layers=[], included=["pooler"], problem="classification", labels=["no", "yes"],
        metrics={}, epoch=1, step=1, parent="ck_before",
    )  # fmt: skip
    write_checkpoint(tmp_path / "ck", run.loaded, run.names, "delta", record)
    data = metadata(tmp_path / "ck")
    assert (data.datasets, data.eval_results) == (None, None)
    text = (tmp_path / "ck" / "README.md").read_text()
    assert "fine-tuned on the head alone" in text
    assert "the head, the pooler changed" in text
    assert "has the values of checkpoint ck_before" in text


def test_the_merged_folder_has_the_card_and_record_of_a_full_one(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), Problem.TOKEN_CLASSIFICATION)
    full = run.write(tmp_path / "full", "full")
    together = merged(run, run.write(tmp_path / "delta", "delta"), tmp_path / "merged")
    for name in ("README.md", RECORD):
        assert (together / name).read_text() == (full / name).read_text()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_of_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "nomic_bert")
    weights = load_file(base / WEIGHTS_FILE)
    halved = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(halved, base / WEIGHTS_FILE, metadata={"format": "pt"})
    run = trained(base, Problem.TOKEN_CLASSIFICATION)
    delta = run.write(tmp_path / "delta", "delta")
    run.gives(load(base, delta))
    run.gives(plain(merged(run, delta, tmp_path / "merged"), run.problem))
    assert load_file(delta / DELTA).keys() == set(run.names)


def test_a_base_that_writes_gamma_and_beta(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    weights = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in load_file(base / WEIGHTS_FILE).items()
    }
    save_file(weights, base / WEIGHTS_FILE, metadata={"format": "pt"})
    run = trained(base, Problem.MULTIPLE_CHOICE)
    delta = run.write(tmp_path / "delta", "delta")
    run.gives(load(base, delta))
    run.gives(plain(merged(run, delta, tmp_path / "merged"), run.problem))
    assert load_file(delta / DELTA).keys() == set(run.names)


def test_a_name_with_other_values_is_not_taken_for_the_tensor(tmp_path: Path) -> None:
    """A file may hold both names of a tensor; the model was made of one of them."""
    base = write_base(tmp_path / "base", "bert", Problem.CLASSIFICATION)
    run = trained(base, Problem.CLASSIFICATION)
    name = "bert.embeddings.word_embeddings.weight"
    weights = load_file(base / WEIGHTS_FILE)
    weights["embeddings.word_embeddings.weight"] = weights[name]
    weights[name] = weights[name] + 1
    save_file(weights, run.loaded.snapshot / WEIGHTS_FILE, metadata={"format": "pt"})
    delta = run.write(tmp_path / "delta", "delta")
    frozen = json.loads((delta / RECORD).read_text())["frozen"]
    assert frozen[name] == "embeddings.word_embeddings.weight"


def test_a_delta_goes_into_a_model_of_the_same_head_alone(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), Problem.MULTIPLE_CHOICE)
    delta = run.write(tmp_path / "delta", "delta")
    fresh = loaded_from(run.base, task(run.problem), seed=5).model
    assert not torch.equal(logits_of(fresh, run.batch), run.logits)
    run.gives(apply_delta(fresh, delta))
    # One score a row: tensors of the same names and shapes.
    other = tiny("bert", labels=1, problem=Problem.REGRESSION, dtype=torch.float32)
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointMismatch, match=r"BertForMultipleChoice.*BertForSequence"):
        apply_delta(other, delta)
    assert all(torch.equal(state[name], own) for name, own in other.state_dict().items())
    shorter = nn.Sequential()
    with pytest.raises(CheckpointMismatch, match=r"does not fit"):
        apply_delta(shorter, delta)


def test_another_base_is_refused(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "nomic_bert"), Problem.TOKEN_CLASSIFICATION)
    delta = run.write(tmp_path / "delta", "delta")
    fused = "encoder.layers.0.attn.Wqkv.weight"
    weights = load_file(run.base / WEIGHTS_FILE)
    cut = {**weights, fused: weights[fused][:20].contiguous()}
    other = tmp_path / "other"
    other.mkdir()
    save_file(cut, other / WEIGHTS_FILE)
    with pytest.raises(CheckpointMismatch, match=re.escape(fused)):
        load(other, delta)
    with pytest.raises(UnsafeWeights, match=r"Wqkv.weight of the base model has no rows 16 to 32"):
        merge(delta, [other / WEIGHTS_FILE])
    (delta / RECORD).unlink()
    with pytest.raises(CheckpointMismatch, match=RECORD):
        load(run.base, delta)


def test_a_base_of_the_same_shape_and_other_values_is_refused(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), Problem.CLASSIFICATION)
    delta = run.write(tmp_path / "delta", "delta")
    weights = load_file(run.base / WEIGHTS_FILE)
    halves = [dict(list(weights.items())[part::2]) for part in (0, 1)]
    for number, half in enumerate(halves, 1):
        save_file(half, tmp_path / "base" / f"model-0000{number}-of-00002.safetensors")
    (run.base / WEIGHTS_FILE).unlink()
    run.gives(load(run.base, delta))  # however it is cut into files
    name = next(name for name in halves[0] if "embeddings" in name)
    halves[0][name] = halves[0][name] * 2
    save_file(halves[0], tmp_path / "base" / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"other values than those of base \(revision"):
        load(run.base, delta)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = trained(write_base(tmp_path / "base", "bert"), Problem.CLASSIFICATION)
    delta = run.write(tmp_path / "delta", "delta")
    (delta / "README.md").write_text("# My own words")
    run.gives(load(run.base, delta))
    raw = (delta / DELTA).read_bytes()
    (delta / DELTA).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(CheckpointDamaged, match=r"delta.safetensors is damaged.*download it again"):
        load(run.base, delta)
    (delta / DELTA).unlink()
    with pytest.raises(CheckpointDamaged, match=r"lacks delta.safetensors"):
        load(run.base, delta)


def test_every_problem_has_a_card() -> None:
    assert set(HEADS) == set(Problem)
    assert {problem: head.auto_class for problem, head in HEADS.items()} == {
        problem: auto.__name__ for problem, auto in AUTO.items()
    }
