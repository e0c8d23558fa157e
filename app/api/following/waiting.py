"""``Prefer: wait=n`` (RFC 7240): an answer that waits for the job to change.

It wraps the operation that answers a job. That is run again when the job has changed, and decides
whether anything is new to the caller; while it waits, a request holds no thread and no connection.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api.answers.job_documents import Json, whole_job
from app.api.following.broadcaster import Broadcaster
from app.api.following.shared_answers import question_of
from app.api.http.idempotency import IdempotentRoute
from app.api.http.reads import json_answer
from app.db import Database

LONGEST_WAIT_SECONDS = 60
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


async def prefer(
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=n` asks to answer only when the job has changed, after n seconds at "
            f"the latest. At most {LONGEST_WAIT_SECONDS} seconds are waited; "
            "`Preference-Applied` says how long."
        ),
    ] = None,
) -> None:
    """Documents the header; `WaitingRoute` acts on it."""


WAITS = Depends(prefer)
"""The dependency that marks an operation of a `WaitingRoute` as one that can wait."""


def wait_of(request: Request) -> int | None:
    """The seconds that a request prefers to wait; None if it does not, or in a way unknown here."""
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            asked = re.fullmatch(
                r'wait\s*=\s*"?([0-9]{1,9})"?', preference.partition(";")[0].strip()
            )
            if asked and int(asked[1]) > 0:
                return min(int(asked[1]), LONGEST_WAIT_SECONDS)
    return None


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event happens within this time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class WaitingRoute(IdempotentRoute):
    """An operation that answers a job, and waits first if the request prefers that.

    An answer to an idempotency key is stored before the wait, and a replayed one is waited for too.
    """

    def get_route_handler(self) -> Handler:
        """The operation, inside a wait if it is marked with `WAITS`."""
        handler = super().get_route_handler()
        if not any(each.dependency is prefer for each in self.dependencies):
            return handler

        async def waiting(request: Request) -> Response:
            seconds = wait_of(request)
            if seconds is None:
                return await handler(request)
            until_over = _until_over if request.method == "POST" else _until_changed
            answer = await until_over(request, handler, time.monotonic() + seconds)
            answer.headers["Preference-Applied"] = f"wait={seconds}"
            return answer

        return waiting


async def _until_changed(request: Request, handler: Handler, deadline: float) -> Response:
    """The job as soon as it differs from what the request knows, or else as it is at the end."""
    has_tag, question = "if-none-match" in request.headers, question_of(request)
    broadcaster: Broadcaster = request.app.state.broadcaster
    with broadcaster.follow(request.path_params["job_id"]) as feed:
        ask = partial(feed.answers.ask, question, partial(handler, request))
        await happens_within(feed.known, deadline - time.monotonic())
        change, state = feed.next_change(), feed.state  # before the job is read: none is missed
        answer = await ask()
        if has_tag and answer.status_code != 304:
            return answer
        while state is not None and not state.terminal and not broadcaster.closed:
            if not await happens_within(change, deadline - time.monotonic()):
                return await ask()
            change = feed.next_change()
            if feed.state is state:  # only an event
                continue
            state, answer = feed.state, await ask()
            if not has_tag or answer.status_code != 304:
                return answer
    return answer


async def _until_over(request: Request, handler: Handler, deadline: float) -> Response:
    """The submitted job when it has ended, or as it is when the time is over."""
    answer = await handler(request)
    if answer.status_code != 202:  # a dry run, or a stored result
        return answer
    job_id = json.loads(bytes(answer.body))["id"]
    broadcaster: Broadcaster = request.app.state.broadcaster
    with broadcaster.follow(job_id) as feed:
        await happens_within(feed.known, deadline - time.monotonic())
        while feed.state is not None and not feed.state.terminal and not broadcaster.closed:
            if not await happens_within(feed.next_change(), deadline - time.monotonic()):
                break
    document = await run_in_threadpool(_read, request.app.state.service.database, job_id)
    if document is None:
        return answer
    over = document["terminal"]
    dropped = {"content-length", "content-type"} | ({"retry-after"} if over else set())
    headers = {name: value for name, value in answer.headers.items() if name not in dropped}
    return json_answer(document, status=200 if over else 202, headers=headers)


def _read(database: Database, job_id: str) -> Json | None:
    with database.read() as session:
        return whole_job(session, job_id)
