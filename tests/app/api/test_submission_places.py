"""Submissions are inserted a few at a time, in the order in which they came."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from app.api import deps
from app.api.deps import SUBMISSIONS_AT_ONCE, await_place, submission_places


def request() -> Any:
    """A request to an application with all its places free."""
    state = SimpleNamespace(submission_places=submission_places())
    return SimpleNamespace(app=SimpleNamespace(state=state))


place_of = asynccontextmanager(await_place)


def test_first_come_first_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "PATIENCE_SECONDS", 60)
    served: list[int] = []

    async def submit(number: int, to: Any) -> None:
        async with place_of(to):
            served.append(number)

    async def everything() -> None:
        to = request()
        async with anyio.create_task_group() as group, AsyncExitStack() as held:
            for _ in range(SUBMISSIONS_AT_ONCE):
                await held.enter_async_context(place_of(to))
            for number in range(10):
                group.start_soon(submit, number, to)
            await anyio.wait_all_tasks_blocked()
            assert served == []

    anyio.run(everything)
    assert served == list(range(10))


def test_who_has_waited_long_goes_on_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "PATIENCE_SECONDS", 0.01)

    async def everything() -> None:
        to = request()
        async with AsyncExitStack() as held:
            for _ in range(SUBMISSIONS_AT_ONCE + 1):  # the last one finds no place
                await held.enter_async_context(place_of(to))
            assert to.app.state.submission_places.borrowed_tokens == SUBMISSIONS_AT_ONCE
        assert to.app.state.submission_places.borrowed_tokens == 0

    anyio.run(everything)
