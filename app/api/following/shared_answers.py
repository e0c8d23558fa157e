"""One answer for all requests that ask the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

Question = tuple[object, ...]


def question_of(request: Request) -> Question:
    """All that the answer to a request for a job depends on, beside the job."""
    scope = request.scope
    known = tuple(request.headers.getlist("if-none-match"))
    return scope["state"]["principal"].project, scope["path"], scope["query_string"], known


@dataclass
class _Turns:
    """The answers to one question, which are made one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: asyncio.Future[Response | None] | None = None  # an answer that nobody has begun to make


class SharedAnswers:
    """Answers equal questions together.

    Whoever asks gets an answer that was begun after the question, so that it is never older than
    what they know. While one is being made, all who come wait for the next one, which is made once.
    """

    def __init__(self) -> None:
        self._turns: dict[Question, _Turns] = {}

    async def ask(self, question: Question, make: Callable[[], Awaitable[Response]]) -> Response:
        """The answer to a question. If whoever makes it fails, the others make their own."""
        turns = self._turns.setdefault(question, _Turns())
        if turns.next is not None:
            answer = await asyncio.shield(turns.next)
            return await make() if answer is None else _copied(answer)
        ours = turns.next = asyncio.get_running_loop().create_future()
        answer = None
        try:
            async with turns.lock:
                turns.next = None  # whoever comes from now on needs a later answer
                answer = await make()
            return answer
        finally:
            ours.set_result(answer)
            if turns.next is ours:
                turns.next = None
            if turns.next is None and not turns.lock.locked():
                self._turns.pop(question, None)


def _copied(answer: Response) -> Response:
    """The same answer for another request, whose headers may be changed."""
    copy = Response(answer.body, answer.status_code)
    copy.raw_headers = list(answer.raw_headers)
    return copy
