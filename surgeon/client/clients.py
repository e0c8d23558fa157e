"""The clients and their jobs: ``Client`` blocks, ``AsyncClient`` is awaited.

What their methods do is written once, as flows; here, drivers take the steps.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import httpx2
from pydantic import BaseModel

from surgeon.client import calls, jobs, operations, transfers
from surgeon.client.calls import Service
from surgeon.client.jobs import JobHandle, Result
from surgeon.client.requests import connection_options, sendable
from surgeon.client.steps import Awaiting, Blocking, Flow, Stream
from surgery.schemas.jobs.comparison import ComparisonResult
from surgery.schemas.jobs.export import ExportResult
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.prediction import PredictionResult
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult

DEFAULT_URL = "http://127.0.0.1:8000"
PATIENCE_SECONDS = 300.0  # a restart of the service, with its migrations


class Driven(Protocol):
    """What has a driver: a client, or a job of one."""

    @property
    def driver(self) -> Any:
        """What takes the steps of flows."""


Subject = TypeVar("Subject", bound=Driven)
P = ParamSpec("P")
T = TypeVar("T")
Kind = TypeVar("Kind", bound=BaseModel)


def _blocking(
    flow: Callable[Concatenate[Subject, P], Flow[T]],
) -> Callable[Concatenate[Subject, P], T]:
    """The method that runs a flow."""

    @functools.wraps(flow)
    def method(self: Subject, /, *args: P.args, **given: P.kwargs) -> T:
        return self.driver.run(flow(self, *args, **given))  # type: ignore[no-any-return]

    return method


def _awaited(
    flow: Callable[Concatenate[Subject, P], Flow[T]],
) -> Callable[Concatenate[Subject, P], Awaitable[T]]:
    """The method that runs a flow in an event loop."""

    @functools.wraps(flow)
    async def method(self: Subject, /, *args: P.args, **given: P.kwargs) -> T:
        return await self.driver.run(flow(self, *args, **given))  # type: ignore[no-any-return]

    return method


def _iterated(
    stream: Callable[Concatenate[Subject, P], Stream[T]],
) -> Callable[Concatenate[Subject, P], Iterator[T]]:
    """The method that iterates over a stream."""

    @functools.wraps(stream)
    def method(self: Subject, /, *args: P.args, **given: P.kwargs) -> Iterator[T]:
        return self.driver.iterate(stream(self, *args, **given))  # type: ignore[no-any-return]

    return method


def _aiterated(
    stream: Callable[Concatenate[Subject, P], Stream[T]],
) -> Callable[Concatenate[Subject, P], AsyncIterator[T]]:
    """The method that iterates over a stream in an event loop."""

    @functools.wraps(stream)
    def method(self: Subject, /, *args: P.args, **given: P.kwargs) -> AsyncIterator[T]:
        return self.driver.iterate(stream(self, *args, **given))  # type: ignore[no-any-return]

    return method


class Job(JobHandle[Result]):
    """A job of a ``Client``."""

    wait = _blocking(jobs.waited)
    refresh = _blocking(jobs.refreshed)
    follow = _iterated(jobs.followed)
    logs = _iterated(jobs.logged)
    cancel = _blocking(jobs.cancelled)
    pause = _blocking(jobs.paused)
    resume = _blocking(jobs.resumed)
    retry = _blocking(jobs.tried_again)
    delete = _blocking(jobs.deleted)
    checkpoints = _blocking(jobs.checkpoints)
    download = _blocking(jobs.downloaded)


class AsyncJob(JobHandle[Result]):
    """A job of an ``AsyncClient``."""

    wait = _awaited(jobs.waited)
    refresh = _awaited(jobs.refreshed)
    follow = _aiterated(jobs.followed)
    logs = _aiterated(jobs.logged)
    cancel = _awaited(jobs.cancelled)
    pause = _awaited(jobs.paused)
    resume = _awaited(jobs.resumed)
    retry = _awaited(jobs.tried_again)
    delete = _awaited(jobs.deleted)
    checkpoints = _awaited(jobs.checkpoints)
    download = _awaited(jobs.downloaded)


def _starting(
    flow: Callable[Concatenate[Service, P], Flow[calls.Json]],
    kind: type[Kind],  # noqa: ARG001
) -> Callable[Concatenate[Service, P], Job[Kind]]:
    """The method that submits a job, whose result is of this kind."""

    @functools.wraps(flow)
    def method(self: Service, /, *args: P.args, **given: P.kwargs) -> Job[Kind]:
        return Job(self, self.driver.run(flow(self, *args, **given)))

    return method


def _astarting(
    flow: Callable[Concatenate[Service, P], Flow[calls.Json]],
    kind: type[Kind],  # noqa: ARG001
) -> Callable[Concatenate[Service, P], Awaitable[AsyncJob[Kind]]]:
    """The method that submits a job in an event loop."""

    @functools.wraps(flow)
    async def method(self: Service, /, *args: P.args, **given: P.kwargs) -> AsyncJob[Kind]:
        return AsyncJob(self, await self.driver.run(flow(self, *args, **given)))

    return method


class Client(Service):
    """Speaks to one service, and blocks until it has answered.

    ``patience`` is for how many seconds a service that does not answer, or asks to come back later,
    is asked again. Methods that submit return a ``Job``; the others that speak of jobs, keys and
    webhooks return the JSON of the service. Raises InvalidRequest if the URL or the key is
    malformed.
    """

    driver: Blocking

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        super().__init__(url, patience)
        with sendable("the URL or the key"):
            self.driver = Blocking(httpx2.Client(**connection_options(self.url, key)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.driver.http.close()

    rank = _starting(calls.rank, RankingResult)
    tune = _starting(calls.tune, FinetuneResult)
    search = _starting(calls.search, SearchResult)
    predict = _starting(calls.predict, PredictionResult)
    export = _starting(calls.export, ExportResult)
    compare = _starting(calls.compare, ComparisonResult)
    get = _starting(calls.job, BaseModel)
    start_once = _starting(calls.start_once, BaseModel)
    estimate = _blocking(calls.estimate)
    upload = _blocking(transfers.upload)
    download = _blocking(transfers.download)

    call = _blocking(calls.call)
    submit = _blocking(calls.submit)
    job = _blocking(calls.job)
    wait = _blocking(calls.wait)
    follow = _iterated(calls.follow)
    log_lines = _iterated(calls.log_lines)
    cancel = _blocking(calls.cancel)
    pause = _blocking(calls.pause)
    resume = _blocking(calls.resume)
    retry = _blocking(calls.retry)
    change = _blocking(calls.change)
    delete = _blocking(calls.delete)
    datasets = _blocking(calls.datasets)
    dataset_names = _blocking(calls.dataset_names)
    checkpoints = _blocking(calls.checkpoints)
    best_checkpoint = _blocking(calls.best_checkpoint)
    record = _blocking(calls.record)

    create_key = _blocking(operations.create_key)
    keys = _blocking(operations.keys)
    revoke_key = _blocking(operations.revoke_key)
    create_project = _blocking(operations.create_project)
    projects = _blocking(operations.projects)
    create_webhook = _blocking(operations.create_webhook)
    webhooks = _blocking(operations.webhooks)
    delete_webhook = _blocking(operations.delete_webhook)
    test_webhook = _blocking(operations.send_test_event)


class AsyncClient(Service):
    """The same as ``Client`` for an event loop: its methods are awaited."""

    driver: Awaiting

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        super().__init__(url, patience)
        with sendable("the URL or the key"):
            self.driver = Awaiting(httpx2.AsyncClient(**connection_options(self.url, key)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.driver.http.aclose()

    rank = _astarting(calls.rank, RankingResult)
    tune = _astarting(calls.tune, FinetuneResult)
    search = _astarting(calls.search, SearchResult)
    predict = _astarting(calls.predict, PredictionResult)
    export = _astarting(calls.export, ExportResult)
    compare = _astarting(calls.compare, ComparisonResult)
    get = _astarting(calls.job, BaseModel)
    start_once = _astarting(calls.start_once, BaseModel)
    estimate = _awaited(calls.estimate)
    upload = _awaited(transfers.upload)
    download = _awaited(transfers.download)

    call = _awaited(calls.call)
    submit = _awaited(calls.submit)
    job = _awaited(calls.job)
    wait = _awaited(calls.wait)
    follow = _aiterated(calls.follow)
    log_lines = _aiterated(calls.log_lines)
    cancel = _awaited(calls.cancel)
    pause = _awaited(calls.pause)
    resume = _awaited(calls.resume)
    retry = _awaited(calls.retry)
    change = _awaited(calls.change)
    delete = _awaited(calls.delete)
    datasets = _awaited(calls.datasets)
    dataset_names = _awaited(calls.dataset_names)
    checkpoints = _awaited(calls.checkpoints)
    best_checkpoint = _awaited(calls.best_checkpoint)
    record = _awaited(calls.record)

    create_key = _awaited(operations.create_key)
    keys = _awaited(operations.keys)
    revoke_key = _awaited(operations.revoke_key)
    create_project = _awaited(operations.create_project)
    projects = _awaited(operations.projects)
    create_webhook = _awaited(operations.create_webhook)
    webhooks = _awaited(operations.webhooks)
    delete_webhook = _awaited(operations.delete_webhook)
    test_webhook = _awaited(operations.send_test_event)
