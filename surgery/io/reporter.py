"""How long work tells what it is doing, and learns that it should stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Stopped(Exception):
    """The run was asked to stop; ``resumable``: it should leave a state to go on from."""

    def __init__(self, *, resumable: bool) -> None:
        self.resumable = resumable
        super().__init__("drained" if resumable else "cancelled")


@dataclass(frozen=True)
class CheckpointSummary:
    """What a run tells of a checkpoint it has written."""

    epoch: float
    step: int
    form: str  # as `checkpoints.card.Form` has it
    metrics: Mapping[str, float | None]
    is_best: bool


class Reporter(Protocol):
    """Where a run reports to. Every method may be called often; ``step`` may raise Stopped."""

    def phase(self, name: str) -> None:
        """A part of the run begins: load, warmup, score, train …"""

    def step(self, done: int, total: int | None, unit: str) -> None:
        """So many of so many units are done. Raises Stopped when the run should end."""

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Numbers measured at an optimizer step."""

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        """A checkpoint is complete on disk."""

    def state(self, directory: Path, step: int) -> None:
        """A state to resume from is complete on disk."""

    def new_folder(self, name: str) -> Path:
        """A path, not yet there, under which the run may build a folder of that name."""


class Quiet:
    """Reports to nobody; checkpoints go under ``out``."""

    def __init__(self, out: Path | None = None) -> None:
        self.out = out

    def phase(self, name: str) -> None:
        """Nothing to tell."""

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Nothing to tell."""

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Nothing to tell."""

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        """It stays where it was built."""

    def state(self, directory: Path, step: int) -> None:
        """It stays where it was built."""

    def new_folder(self, name: str) -> Path:
        """Under ``out``, made when first asked for."""
        if self.out is None:
            raise ValueError("this run keeps checkpoints: give it a folder to keep them in")
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out / name


class ForwardingReporter:
    """Passes everything on to another reporter; what derives from it overrides what it changes."""

    def __init__(self, report: Reporter) -> None:
        self._report = report

    def phase(self, name: str) -> None:
        """Passed on."""
        self._report.phase(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Passed on; raises Stopped."""
        self._report.step(done, total, unit)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Passed on."""
        self._report.metric(step, epoch, values)

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        """Passed on."""
        self._report.checkpoint(directory, record)

    def state(self, directory: Path, step: int) -> None:
        """Passed on."""
        self._report.state(directory, step)

    def new_folder(self, name: str) -> Path:
        """Passed on."""
        return self._report.new_folder(name)
