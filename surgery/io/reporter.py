"""How a long run reports its progress, and learns that it should stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Stopped(Exception):
    """The run was asked to stop; if ``resumable``, it should save a state to resume from."""

    def __init__(self, *, resumable: bool) -> None:
        self.resumable = resumable
        super().__init__("drained" if resumable else "cancelled")


@dataclass(frozen=True)
class CheckpointSummary:
    """What a run reports about a checkpoint it has written."""

    epoch: float
    step: int
    form: str  # one of `checkpoints.card.CheckpointForm`
    metrics: Mapping[str, float | None]
    is_best: bool


class Reporter(Protocol):
    """What a run reports to. Every method may be called often; ``step`` may raise Stopped."""

    def phase(self, name: str) -> None:
        """Report that a part of the run begins, such as load, warmup, score or train."""

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Report that ``done`` of ``total`` units are done. Raises Stopped if the run must end."""

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Report numbers measured at an optimizer step."""

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        """Report that a checkpoint is complete on disk."""

    def state(self, directory: Path, step: int) -> None:
        """Report that a state to resume from is complete on disk."""

    def new_folder(self, name: str) -> Path:
        """A path that does not exist yet, where the run may build a folder of that name."""


class Quiet:
    """Ignores every report; folders are built under ``out`` and stay there."""

    def __init__(self, out: Path | None = None) -> None:
        self.out = out

    def phase(self, name: str) -> None: ...

    def step(self, done: int, total: int | None, unit: str) -> None: ...

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None: ...

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None: ...

    def state(self, directory: Path, step: int) -> None: ...

    def new_folder(self, name: str) -> Path:
        """A path under ``out``, which is made when it is first needed."""
        if self.out is None:
            raise ValueError("this run writes checkpoints: give it a folder to write them to")
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out / name


class ForwardingReporter:
    """Passes every report on to another reporter; subclasses override what they change."""

    def __init__(self, report: Reporter) -> None:
        self._report = report

    def phase(self, name: str) -> None:
        self._report.phase(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        self._report.step(done, total, unit)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        self._report.metric(step, epoch, values)

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        self._report.checkpoint(directory, record)

    def state(self, directory: Path, step: int) -> None:
        self._report.state(directory, step)

    def new_folder(self, name: str) -> Path:
        return self._report.new_folder(name)
