"""How much of the service a project may use, and how much it has used."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from app.access.limits import Limits, limits_in_force
from app.access.quotas import QUOTAS, Quota
from app.access.rates import PERIOD_SECONDS, Rate
from app.access.usage import Period, Used, usage_of
from app.api.deps import PrincipalDep, ServiceDep
from app.api.examples.answers import answers
from app.api.examples.platform import LIMITS, USAGE
from app.errors import Unprocessable

router = APIRouter(prefix="/v1", tags=["limits and usage"])
MOST_PERIODS = 400  # in one answer


class LimitView(BaseModel):
    """One limit and its present use."""

    limit: float | None = Field(description="How much the project may use; null is unlimited.")
    used: float | None = Field(description="How much it uses now; null where it is not counted.")
    remaining: float | None = Field(description="How much is left; null is unlimited.")
    frees: str = Field(description="When or how it frees again.")


class LimitsView(BaseModel):
    """The limits in force for a project, and their present use."""

    project: str = Field(description="The project of the key.")
    requests_per_minute: LimitView = Field(
        description="Requests of this key; they are counted only where there is a limit."
    )
    queued_jobs: LimitView = Field(description="Jobs in the queue.")
    running_jobs: LimitView = Field(description="Jobs that run; the others wait.")
    device_hours_per_month: LimitView = Field(
        description="Hours of devices used by attempts that began in this month (UTC)."
    )
    stored_bytes: LimitView = Field(
        description="Bytes of datasets, checkpoints, resume states and logs."
    )


@router.get("/limits", summary="Get limits and their use", responses=answers(LIMITS))
def get_limits(service: ServiceDep, principal: PrincipalDep, request: Request) -> LimitsView:
    """Answers the limits in force for the key's project, and how much of each is used now."""
    limits = limits_in_force(service.settings, principal.limits)
    with service.database.read() as session:
        quotas = [count(session, service.project, limits) for count in QUOTAS]
    return LimitsView(
        project=service.project,
        requests_per_minute=_of_rate(limits, getattr(request.state, "rate", None)),
        **{quota.name: _of_quota(quota) for quota in quotas},
    )


def _of_quota(quota: Quota) -> LimitView:
    left = None if quota.limit is None else max(0.0, quota.limit - quota.used)
    return LimitView(limit=quota.limit, used=quota.used, remaining=left, frees=quota.frees)


def _of_rate(limits: Limits, rate: Rate | None) -> LimitView:
    if rate is None:
        limit = limits.requests_per_minute
        return LimitView(limit=limit, used=None, remaining=None, frees="at once")
    return LimitView(
        limit=rate.limit,
        used=rate.limit - rate.remaining,
        remaining=rate.remaining,
        frees=f"a request frees every {PERIOD_SECONDS / rate.limit:.3g} s",
    )


class TotalView(BaseModel):
    """What was used."""

    jobs: int = Field(description="Jobs that were created.")
    worker_seconds: dict[str, float] = Field(
        description="Seconds for which workers held jobs, by the name of the device."
    )
    stored_bytes: int = Field(
        description="Bytes that are still stored of what was created: of jobs their checkpoints, "
        "resume states and logs, of datasets their files."
    )


class UsageRow(TotalView):
    """What was used in one period by one kind of job."""

    period: str = Field(description="A day such as `2026-11-23`, or a month such as `2026-11`.")
    kind: str = Field(description="The kind of job, or `dataset` for uploads.")


class UsageView(BaseModel):
    """What a project has used."""

    project: str = Field(description="The project of the key.")
    start: date = Field(alias="from", description="The first day.")
    end: date = Field(alias="to", description="The day after the last one.")
    by: Period = Field(description="How the rows are summed up.")
    data: list[UsageRow] = Field(description="What was used, by period and kind, oldest first.")
    total: TotalView = Field(description="The sums of all rows.")


@router.get("/usage", summary="Get what was used", responses=answers(USAGE))
def get_usage(
    service: ServiceDep,
    start: Annotated[
        date | None,
        Query(alias="from", description="The first day (UTC). Default: the first of this month."),
    ] = None,
    end: Annotated[
        date | None,
        Query(alias="to", description="The day after the last one (UTC). Default: tomorrow."),
    ] = None,
    by: Annotated[Period, Query(description="Sum up by `day` or by `month`.")] = Period.DAY,
) -> UsageView:
    """Answers what the key's project has used, by day or month and kind of job.

    A job counts where it was created, seconds of devices where the attempt began that used them.
    """
    today = datetime.now(UTC).date()
    first, last = start or today.replace(day=1), end or today + timedelta(days=1)
    _check_range(first, last, by)
    with service.database.read() as session:
        report = usage_of(session, service.project, _midnight(first), _midnight(last), by)
    rows = [
        UsageRow(period=period, kind=kind, **vars(used))
        for (period, kind), used in sorted(report.items())
    ]
    values = {"from": first, "to": last, "by": by, "data": rows, "total": _total(report.values())}
    return UsageView.model_validate({"project": service.project, **values})


def _check_range(first: date, last: date, by: Period) -> None:
    days = (last - first).days
    if days <= 0:
        detail = f"to ({last}) must be after from ({first})"
        raise Unprocessable(detail, errors=[{"pointer": "/to", "detail": detail}])
    if days > MOST_PERIODS * (1 if by is Period.DAY else 31):
        detail = f"from and to are {days:,} days apart; ask for less, or by=month"
        raise Unprocessable(detail, errors=[{"pointer": "/from", "detail": detail}])


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _total(rows: Iterable[Used]) -> TotalView:
    seconds: dict[str, float] = {}
    jobs, size = 0, 0
    for row in rows:
        jobs, size = jobs + row.jobs, size + row.stored_bytes
        for device, spent in row.worker_seconds.items():
            seconds[device] = round(seconds.get(device, 0.0) + spent, 3)
    return TotalView(jobs=jobs, worker_seconds=seconds, stored_bytes=size)
