"""A fine-tune on two processes of which one fails, and one whose best checkpoint is exported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from surgery.checkpoints.onnx_export import ONNX_FILE
from surgery.data.files.source import format_of
from surgery.data.ingest.ingest import ingest
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.source.copy import checked_copy
from surgery.models.source.resolve import resolve_model
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.resolved import ResolvedFinetune
from tests.support.models.mirror import TINY
from tests.support.service.queued_jobs import RESOLVED
from worker.child.distributed import ProcessFailed, launch
from worker.protocol import (
    CheckpointSaved,
    FetchedDataset,
    FetchedModel,
    FinetuneOrder,
    JobInputs,
    Message,
    PrefixRoom,
)

# Python runs a module of this name at its start: the second process meets what no other does.
FAULT = """
import os
if os.environ.get("RANK") == "1":
    import signal
    from surgery.training import run as training

    whole = training._next_action

    def failing(run, done, total, saved_at):
        if done == 2:
            {fault}
        return whole(run, done, total, saved_at)

    training._next_action = failing
"""


class Heard(Quiet):
    """What the first process says."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Message] = []

    def send(self, report: Message) -> None:
        self.told.append(report)

    def check(self) -> None:
        """Nobody asks for an end."""


def order(tmp_path: Path, mirror: Path, **more: Any) -> FinetuneOrder:
    """What a worker tells the process that trains."""
    sources = Sources((mirror,), tmp_path / "cache", offline=True)
    rows = [f"a {'fine' if i % 2 else 'poor'} sentence {i},{i % 2}" for i in range(40)]
    train = tmp_path / "train.csv"
    train.write_text("text,label\n" + "\n".join(rows) + "\n")
    ingest(train, None, tmp_path / "dataset", train_format=format_of(train.name))
    model = resolve_model(TINY, sources)
    spec = FinetuneSpec.model_validate({
        "model": TINY, "dataset": "ds_1", "processes": 2,
        "selection": {"policy": "layers", "layers": [3]},
        "training": {"epochs": 1, "batch_size": 4, "max_length": 16, "max_steps": 4}, **more,
    })  # fmt: skip
    checked_copy(model, sources)
    inputs = JobInputs(
        model=FetchedModel.model_validate(model, from_attributes=True),
        dataset=FetchedDataset(folder=tmp_path / "dataset", metrics=None),
        cache=sources.cache,
    )
    return FinetuneOrder(
        id="ft_1", spec=spec.model_dump(mode="json"), scratch=tmp_path / "scratch",
        resolved=ResolvedFinetune.of(RESOLVED | {"layers": ["encoder.layer.3"]}), inputs=inputs, cpu_seconds=600,
        also=(), ranking=None, search=None,
            earlier_best=None, state_folder=None, continue_folder=None,
        room=PrefixRoom(folder=sources.prefixes, memory_bytes=None, disk_bytes=None),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(
            "raise KeyError('mine alone')",
            "KeyError: 'mine alone'",
            id="raises",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)",
            "ended without a word",
            id="killed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_error_is_that_of_the_process_that_failed(
    fault: str, words: str, tmp_path: Path, mirror: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "sitecustomize.py").write_text(FAULT.format(fault=fault))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    report: Any = Heard()
    with pytest.raises(ProcessFailed) as failed:
        launch(order(tmp_path, mirror), 2, report)
    problem = failed.value.as_problem()
    assert (problem["code"], words in problem["detail"]) == ("internal", True), problem


@pytest.mark.slow
def test_the_first_process_exports_the_best_checkpoint(tmp_path: Path, mirror: Path) -> None:
    report: Any = Heard()
    asked = {"checkpoints": {"keep": "best", "onnx": True}}
    result = launch(order(tmp_path, mirror, **asked), 2, report).result
    assert result["processes"] == 2
    assert result["onnx"]["max_abs_difference"] < 1e-3
    kept = [said.path for said in report.told if isinstance(said, CheckpointSaved)]
    assert [(folder / ONNX_FILE).is_file() for folder in kept] == [False, True]
