"""Equal questions are answered together, and nobody gets an answer older than the question."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import Response

from app.api.following.shared_answers import SharedAnswers

Make = Callable[[], Awaitable[Response]]


class Answering:
    """Makes numbered answers, each of which takes until it is let go."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.go = asyncio.Event()

    async def make(self) -> Response:
        number = next(self.numbers)
        await self.go.wait()
        return Response(str(number), headers={"ETag": f'"{number}"'})


async def until_asked() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_all_who_ask_while_one_is_answered_share_the_next_answer() -> None:
    async def scene() -> None:
        shared, answering = SharedAnswers(), Answering()
        first = asyncio.create_task(shared.ask(("q",), answering.make))
        await until_asked()
        others = [asyncio.create_task(shared.ask(("q",), answering.make)) for _ in range(50)]
        different = asyncio.create_task(shared.ask(("r",), answering.make))
        await until_asked()
        answering.go.set()
        assert (await first).body == b"1"
        answers = await asyncio.gather(*others)
        assert {answer.body for answer in answers} == {b"3"}  # begun after they had asked
        assert (await different).body == b"2"
        answers[0].headers["Preference-Applied"] = "wait=1"
        assert "preference-applied" not in answers[1].headers
        assert answers[1].headers["etag"] == '"3"'
        assert answers[1].headers["content-length"] == "1"
        assert (await shared.ask(("q",), answering.make)).body == b"4"  # nothing is kept
        assert not shared._turns

    asyncio.run(scene())


def test_an_error_is_of_the_one_who_met_it_alone() -> None:
    async def scene() -> None:
        shared, answering = SharedAnswers(), Answering()
        first = asyncio.create_task(shared.ask(("q",), answering.make))
        await until_asked()

        async def fail() -> Response:
            raise LookupError

        failing = asyncio.create_task(shared.ask(("q",), fail))
        await until_asked()
        others = [asyncio.create_task(shared.ask(("q",), answering.make)) for _ in range(3)]
        await until_asked()
        answering.go.set()
        assert (await first).body == b"1"
        with pytest.raises(LookupError):
            await failing
        assert {answer.body for answer in await asyncio.gather(*others)} == {b"2", b"3", b"4"}
        assert not shared._turns

    asyncio.run(scene())


def test_one_who_leaves_does_not_keep_the_others_waiting() -> None:
    async def scene() -> None:
        shared, answering = SharedAnswers(), Answering()
        first = asyncio.create_task(shared.ask(("q",), answering.make))
        await until_asked()
        leaving = asyncio.create_task(shared.ask(("q",), answering.make))
        await until_asked()
        follower = asyncio.create_task(shared.ask(("q",), answering.make))
        await until_asked()
        leaving.cancel()
        await until_asked()
        answering.go.set()
        assert (await first).body == b"1"
        assert (await follower).body == b"2"
        assert not shared._turns

    asyncio.run(scene())
