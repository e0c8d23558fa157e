"""A fetcher that has nothing to fetch, for attempts whose child is the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgery.schemas.resolved import PeakMemory
from worker.protocol import Fetched, FetchedDataset, FetchedModel, FetchOrder
from worker.supervisor.attempt.attempt import Processes

MODEL = FetchedModel(id="m", origin="mirror", revision=None, fingerprint="f", config={}, files=())


class LaidReady:
    """Says at once that everything is there."""

    def begin_job(self, _: object) -> None:
        """One more."""

    def peak_memory(self) -> PeakMemory:
        """Nobody measured it."""
        return PeakMemory()

    def send(self, order: FetchOrder) -> None:
        """An upload is the supervisor's own to find."""
        uploaded = order.resolved.dataset.path is not None
        self._dataset = None if uploaded else FetchedDataset(folder=Path(), metrics=())

    def kill_group(self) -> None:
        """There is none."""

    def receive(self, seconds: float) -> Fetched:
        """Whatever was asked for."""
        assert seconds > 0
        return Fetched(model=MODEL, dataset=self._dataset, also=())


def with_child(child: Any) -> Processes:
    """The processes of a worker whose child is this one."""
    fetcher: Any = LaidReady()
    return Processes(fetcher, child)
