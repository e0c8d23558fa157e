"""A fetcher that has nothing to fetch, for attempts whose child is the test's own."""

from __future__ import annotations

from typing import Any

from worker.supervisor.attempt import Processes


class LaidReady:
    """Says at once that everything is there."""

    def begin_job(self) -> None:
        """One more."""

    def send(self, message: dict[str, Any]) -> None:
        """Heard."""

    def receive(self, seconds: float) -> dict[str, Any]:
        """Whatever was asked for."""
        assert seconds > 0
        found = {"model": {}, "dataset": {"folder": "", "metrics": []}, "also": []}
        return {"type": "result", "result": found, "resolved": {}}


def with_child(child: Any) -> Processes:
    """The processes of a worker whose child is this one."""
    fetcher: Any = LaidReady()
    return Processes(fetcher, child)
