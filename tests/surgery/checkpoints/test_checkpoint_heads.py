"""Checkpoints of every encoder and problem: written, loaded three ways, put together, refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from surgery import apply_delta, load
from surgery.checkpoints.merge import DELTA, RECORD, merge
from surgery.data.tokens.tokenize import encode
from surgery.errors import CheckpointDamaged, CheckpointMismatch, UnsafeWeights
from surgery.models.source.folder import WEIGHTS_FILE
from surgery.schemas.enums import Problem
from tests.support.collected import one_in
from tests.support.models.checkpoints import loaded_from, task
from tests.support.models.checkpoints import write_checkpoint as write_base
from tests.support.models.encoders import CONFIGS, NO_CHOICES, tiny
from tests.support.models.trained_step import logits_of, merged, plain, trained

# Every encoder with one problem, every problem with a few encoders.
CASES = sorted(
    {(kind, Problem.TOKEN_CLASSIFICATION) for kind in CONFIGS}
    | {(kind, p) for kind in ("bert", "xlnet", "albert", "fnet", "funnel") for p in Problem}
    | {("deberta-v2", Problem.MULTIPLE_CHOICE), ("modernbert", Problem.MULTIPLE_CHOICE)}
    | {("nomic_bert", Problem.CLASSIFICATION), ("nomic_bert", Problem.REGRESSION)}
)


@pytest.mark.parametrize(("kind", "problem"), one_in(2, [c for c in CASES if c[0] not in NO_CHOICES
                         or c[1] is not Problem.MULTIPLE_CHOICE]))  # fmt: skip
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
