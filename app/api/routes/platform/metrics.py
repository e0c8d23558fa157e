"""Numbers for Prometheus: what this process answers, and what the database says of all jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.access.keys import Keyring
from app.api.deps import ServiceDep
from app.api.examples.answers import problems
from app.api.statistics import WAIT_BUCKETS, Now, Statistics, Sums
from app.db.tables import TERMINAL, JobKind, Status
from app.errors import Forbidden
from app.jobs.attempts import AttemptOutcome
from app.process.restarts import RESTARTS

log = logging.getLogger("surgeon.api")
router = APIRouter(tags=["platform"])
EXAMPLE = """# HELP surgeon_jobs Jobs that have not ended.
# TYPE surgeon_jobs gauge
surgeon_jobs{kind="ranking",status="queued"} 3.0
"""


class DatabaseCollector(Collector):
    """What the database says, as families of Prometheus."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def describe(self) -> Iterator[Metric]:
        """Nothing: the database is not read when this collector is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every family; only that the database does not answer, if it does not."""
        up = GaugeMetricFamily("surgeon_database_up", "Whether the database answers.")
        try:
            now, sums = self._statistics.read()
        except SQLAlchemyError as error:
            log.warning("the metrics lack what the database holds: %s", error)
            up.add_metric((), 0)
            yield up
            return
        up.add_metric((), 1)
        yield up
        yield from _gauges(now)
        yield from _counters(sums)
        yield _waits(sums)


class RestartCollector(Collector):
    """How often each part of this process has died and was started again."""

    def collect(self) -> Iterator[Metric]:
        """One family."""
        family = CounterMetricFamily(
            "surgeon_process_restarts",
            "Times that a part of this process has died and was started again.",
            labels=("part",),
        )
        for part, count in RESTARTS.counted().items():
            family.add_metric((part,), count)
        yield family


def _gauges(now: Now) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("surgeon_jobs", "Jobs that have not ended.", labels=("kind", "status"))
    oldest = GaugeMetricFamily(
        "surgeon_queue_oldest_seconds", "The longest wait of a queued job.", labels=("kind",)
    )
    for kind in JobKind:
        for status in Status:
            if status not in TERMINAL:
                jobs.add_metric((kind, status), now.jobs.get((kind, status), 0))
        oldest.add_metric((kind,), now.oldest_seconds.get(kind, 0.0))
    workers = GaugeMetricFamily("surgeon_workers", "Workers that are alive.", labels=("state",))
    for state, count in now.workers.items():
        workers.add_metric((state,), count)
    pending = GaugeMetricFamily(
        "surgeon_webhook_deliveries_pending", "Deliveries that have not arrived yet."
    )
    pending.add_metric((), now.deliveries)
    yield from (jobs, oldest, workers, pending)


def _counters(sums: Sums) -> Iterator[Metric]:
    jobs = CounterMetricFamily(
        "surgeon_jobs_ended", "Jobs that have ended.", labels=("kind", "status")
    )
    for kind in JobKind:
        for status in TERMINAL:
            jobs.add_metric((kind, status), sums.jobs[kind, status])
    attempts = CounterMetricFamily(
        "surgeon_attempts_ended",
        "Attempts that have ended; of lost ones the lease ran out.",
        labels=("outcome",),
    )
    for outcome in AttemptOutcome:
        attempts.add_metric((outcome,), sums.attempts[outcome])
    seconds = CounterMetricFamily(
        "surgeon_device_seconds",
        "Seconds for which attempts that have ended held a device.",
        labels=("device",),
    )
    for device, spent in sums.device_seconds.items():
        seconds.add_metric((device,), spent)
    deliveries = CounterMetricFamily(
        "surgeon_webhook_deliveries_ended",
        "Deliveries that arrived or were given up.",
        labels=("status",),
    )
    for ending in ("delivered", "failed"):
        deliveries.add_metric((ending,), sums.deliveries[ending])
    restarts = CounterMetricFamily(
        "surgeon_worker_restarts",
        "Times that a part of a worker has died and was started again.",
        labels=("part",),
    )
    for part, count in sums.restarts.items():
        restarts.add_metric((part,), count)
    yield from (jobs, attempts, seconds, deliveries, restarts)


def _waits(sums: Sums) -> Metric:
    waits = HistogramMetricFamily(
        "surgeon_queue_wait_seconds", "Seconds from a job's submission to its first attempt."
    )
    buckets, total = [], 0
    for place, bound in enumerate((*map(str, WAIT_BUCKETS), "+Inf")):
        total += sums.waits[place]
        buckets.append((bound, total))
    waits.add_metric((), buckets, sums.wait_seconds)
    return waits


def make_registry(statistics: Statistics) -> CollectorRegistry:
    """The numbers of one application and of the process that it runs in."""
    registry = CollectorRegistry()
    for kind in (ProcessCollector, PlatformCollector, GCCollector):
        kind(registry=registry)
    registry.register(DatabaseCollector(statistics))
    registry.register(RestartCollector())
    return registry


async def require_operator(request: Request, service: ServiceDep) -> None:
    """Raises Unauthorized or Forbidden unless the caller may see the numbers of all projects."""
    if service.settings.metrics_open:
        return
    keyring: Keyring = request.app.state.keyring
    principal = await keyring.anonymous()
    if principal is None:
        principal = await keyring.holder_of(request.headers.get("authorization"))
    if not principal.operates:
        raise Forbidden(
            "the numbers are those of all projects: this needs a key with the scope 'admin' of the "
            "default project"
        )


@router.get(
    "/metrics",
    summary="Read numbers for Prometheus",
    response_class=PlainTextResponse,
    dependencies=[Depends(require_operator)],
    openapi_extra={"security": [{"HTTPBearer": ["admin"]}]},
    responses={
        200: {
            "content": {"text/plain": {"example": EXAMPLE}},
            "description": "The numbers, in Prometheus's text format.",
        },
        **problems(401, 403),
    },
)
def scrape_metrics(request: Request) -> PlainTextResponse:
    """Answers the numbers of this process and of the whole service, of all projects together.

    Where the service has keys, this takes one with the scope `admin` of the default project,
    unless the setting SURGEON_METRICS_OPEN is on.
    """
    registry = request.app.state.registry
    return PlainTextResponse(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
