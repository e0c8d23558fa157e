"""A run that begins with the weights of another's checkpoint, on other layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from surgery import load
from surgery.checkpoints.checkpoint import begin_with
from surgery.checkpoints.merge import DELTA, RECORD
from surgery.data.tokens.dataset import TaskData
from surgery.errors import CheckpointMismatch
from surgery.io.reporter import Quiet
from surgery.models.loading import LoadedModel
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.training.loop import finetune
from tests.support.models.checkpoints import LABELS, loaded_from, task
from tests.support.models.checkpoints import write_checkpoint as write_base


def tuned(
    base: Path, layer: int, out: Path, parent: Path | None = None, form: str = "delta"
) -> Path:
    """The checkpoint of one step on one layer."""
    data = with_metrics(task())
    loaded = loaded_from(base, data, seed=1 if parent is None else 2)
    if parent is not None:
        begin_with(loaded, data, parent)
    spec = FinetuneSpec.model_validate({
        "model": "m", "dataset": "d", "selection": {"policy": "layers", "layers": [layer]},
        "training": {"max_steps": 1, "learning_rate": 0.01, "batch_size": 6},
        "checkpoints": {"form": form}, "continue_from": parent and "ck_parent",
    })  # fmt: skip
    finetune(loaded, data, spec, [layers_of_model(loaded)[layer]], Quiet(out))
    return out / "checkpoint-1"


def with_metrics(data: TaskData) -> TaskData:
    return TaskData(**{**vars(data), "metrics": ("accuracy",)})


@pytest.mark.parametrize("form", ["delta", "full"])
def test_what_was_trained_before_travels_on(form: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    first = tuned(base, 0, tmp_path / "first", form=form)
    second = tuned(base, 2, tmp_path / "second", first)
    before, after = load(base, first).state_dict(), load(base, second).state_dict()
    plain = loaded_from(base, task()).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {".".join(name.split(".")[:4]) for name in moved if "encoder" in name}
    assert parts == {"bert.encoder.layer.2"}
    inside = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(after[inside], plain[inside])
    held = load_file(second / DELTA).keys()
    assert inside in held
    assert not any("layer.1." in name or "embeddings" in name for name in held)
    record = json.loads((second / RECORD).read_text())
    assert record["parent"] == "ck_parent"
    assert record["selection"] == {"policy": "layers", "layers": [2], "seed": 0, "include": []}
    assert (record["inputs"], record["max_length"]) == (["text"], 128)
    assert inside not in record["trained"]
    card = (second / "README.md").read_text()
    assert "the values of checkpoint ck_parent" in card


def refused(loaded: LoadedModel, data: TaskData, folder: Path) -> dict[str, Any]:
    state = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    with pytest.raises(CheckpointMismatch) as caught:
        begin_with(loaded, data, folder)
    assert all(torch.equal(state[name], own) for name, own in loaded.model.state_dict().items())
    [fault] = caught.value.as_problem()["errors"]
    assert fault["pointer"] == "/continue_from"
    return fault


def test_another_model_problem_or_labels_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    first = tuned(base, 0, tmp_path / "first")
    data = task()
    swapped = TaskData(**{**vars(data), "labels": LABELS[Problem.CLASSIFICATION][::-1]})
    told = refused(loaded_from(base, swapped), swapped, first)
    assert "labels are 'no', 'yes', the dataset's 'yes', 'no'" in told["detail"]
    other = task(Problem.REGRESSION)
    told = refused(loaded_from(base, other), other, first)
    assert "head is for classification" in told["detail"]
    away = write_base(tmp_path / "away", "bert", Problem.CLASSIFICATION)
    told = refused(loaded_from(away, data), data, first)
    assert "the checkpoint is of base" in told["detail"]
