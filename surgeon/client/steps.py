"""The steps that the client's logic is made of, and the drivers that take them.

The logic is written once, as generators ("flows"): each yields what is to be done (send this,
sleep so long), is given the outcome, and returns a result. It does no I/O of its own. A driver
takes the steps: ``Blocking`` in the calling thread, ``Awaiting`` in an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import httpx2

from surgeon.client.errors import Unreachable
from surgeon.client.requests import Request

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(eq=False)
class Opened:
    """An answer whose body is read piece by piece."""

    response: httpx2.Response
    chunks: Any  # an iterator of bytes, or an asynchronous one


@dataclass(frozen=True)
class Send:
    """Send a request, and read the whole answer."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Send a request, and read the head of its answer; of an error, the body too."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Read the next piece of a body; it is empty at the end."""

    opened: Opened


@dataclass(frozen=True)
class Close:
    """Close an answer before its end."""

    opened: Opened


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Call a function that takes its time, such as one that reads large files."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Emit(Generic[Item]):
    """Hand an item to whoever iterates."""

    item: Item


Step: TypeAlias = Send | Open | Read | Close | Sleep | Work
Flow: TypeAlias = Generator[Step, Any, T]
Stream: TypeAlias = Generator[Step | Emit[Item], Any, None]


def send(request: Request) -> Flow[httpx2.Response]:
    """The answer to a request. Raises Unreachable."""
    answer: httpx2.Response = yield Send(request)
    return answer


def open_answer(request: Request) -> Flow[Opened]:
    """The answer to a request, with its body unread. Raises Unreachable."""
    opened: Opened = yield Open(request)
    return opened


def read(opened: Opened) -> Flow[bytes]:
    """The next piece of a body, empty at its end. Raises Unreachable."""
    piece: bytes = yield Read(opened)
    return piece


def close(opened: Opened) -> Flow[None]:
    """Close an answer. A driver closes those that are still open when a flow ends."""
    yield Close(opened)


def sleep(seconds: float) -> Flow[None]:
    """Wait."""
    yield Sleep(seconds)


def work(function: Callable[[], T]) -> Flow[T]:
    """What the function returns; it runs beside the event loop, if there is one."""
    result: T = yield Work(function)
    return result


def _lost(error: httpx2.TransportError, http: httpx2.Client | httpx2.AsyncClient) -> Unreachable:
    url = str(http.base_url).rstrip("/")
    detail = f"no service answers at {url} ({error}); start one with: surgeon serve"
    return Unreachable(detail, refused=isinstance(error, httpx2.ConnectError))


class _Course(Generic[T]):
    """A flow under way: takes the outcome of each step, and says what the next step is."""

    def __init__(self, flow: Generator[Any, Any, T]) -> None:
        self._flow = flow
        self.outcome: Any = None
        self.result: T | None = None

    def advance(self) -> Any:
        """The next step, or None at the end, when ``result`` is there."""
        outcome, self.outcome = self.outcome, None
        try:
            if isinstance(outcome, Unreachable):
                return self._flow.throw(outcome)
            return self._flow.send(outcome)
        except StopIteration as end:
            self.result = end.value
            return None


class Blocking:
    """Takes the steps of flows in the calling thread."""

    def __init__(self, http: httpx2.Client) -> None:
        self.http = http

    def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        course = _Course(flow)
        for _ in self._items(flow, course):
            raise AssertionError("a flow that is run emits nothing")
        return course.result  # type: ignore[return-value]  # None is a result, too

    def iterate(self, stream: Stream[Item]) -> Iterator[Item]:
        """The items of a stream."""
        return self._items(stream, _Course(stream))

    def _items(self, flow: Generator[Any, Any, Any], course: _Course[Any]) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            stack.callback(flow.close)
            while (step := course.advance()) is not None:
                if isinstance(step, Emit):
                    yield step.item
                    continue
                try:
                    course.outcome = self._take(step, stack)
                except httpx2.TransportError as error:
                    course.outcome = _lost(error, self.http)

    def _take(self, step: Step, stack: contextlib.ExitStack) -> Any:
        match step:
            case Send(request):
                return self.http.send(request.built(self.http))
            case Open(request):
                response = self.http.send(request.built(self.http), stream=True)
                stack.callback(response.close)
                if response.is_error:
                    response.read()
                return Opened(response, response.iter_raw())
            case Read(opened):
                return next(opened.chunks, b"")
            case Close(opened):
                opened.response.close()
            case Sleep(seconds):
                time.sleep(seconds)
            case Work(function):
                return function()
        return None


class Awaiting:
    """Takes the steps of flows in an event loop."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http

    async def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        course = _Course(flow)
        async for _ in self._items(flow, course):
            raise AssertionError("a flow that is run emits nothing")
        return course.result  # type: ignore[return-value]  # None is a result, too

    def iterate(self, stream: Stream[Item]) -> AsyncIterator[Item]:
        """The items of a stream."""
        return self._items(stream, _Course(stream))

    async def _items(
        self, flow: Generator[Any, Any, Any], course: _Course[Any]
    ) -> AsyncGenerator[Any, None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(flow.close)
            while (step := course.advance()) is not None:
                if isinstance(step, Emit):
                    yield step.item
                    continue
                try:
                    course.outcome = await self._take(step, stack)
                except httpx2.TransportError as error:
                    course.outcome = _lost(error, self.http)

    async def _take(self, step: Step, stack: contextlib.AsyncExitStack) -> Any:
        match step:
            case Send(request):
                return await self.http.send(request.built(self.http))
            case Open(request):
                response = await self.http.send(request.built(self.http), stream=True)
                stack.push_async_callback(response.aclose)
                if response.is_error:
                    await response.aread()
                return Opened(response, response.aiter_raw())
            case Read(opened):
                return await anext(opened.chunks, b"")
            case Close(opened):
                await opened.response.aclose()
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Work(function):
                return await asyncio.to_thread(function)
        return None
