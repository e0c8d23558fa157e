"""Submissions are inserted a few at a time, in the order in which they came."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

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
        async with asyncio.TaskGroup() as group, AsyncExitStack() as held:
            for _ in range(SUBMISSIONS_AT_ONCE):
                await held.enter_async_context(place_of(to))
            for number in range(10):
                group.create_task(submit(number, to))
            for _ in range(20):  # all of them begin, and none gets further
                await asyncio.sleep(0)
            assert served == []

    asyncio.run(everything())
    assert served == list(range(10))


def test_who_has_waited_long_goes_on_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "PATIENCE_SECONDS", 0.01)

    async def everything() -> None:
        to = request()
        async with AsyncExitStack() as held:
            for _ in range(SUBMISSIONS_AT_ONCE + 1):  # the last one finds no place
                await held.enter_async_context(place_of(to))
            assert to.app.state.submission_places.locked()
        async with AsyncExitStack() as held:
            for _ in range(SUBMISSIONS_AT_ONCE):
                await held.enter_async_context(place_of(to))
            assert to.app.state.submission_places.locked()
        assert not to.app.state.submission_places.locked()

    asyncio.run(everything())
