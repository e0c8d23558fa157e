"""The limits of a project: how many requests, jobs, hours and bytes it may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, StrictInt

from app.settings import Settings
from surgery.schemas import Strict


class Limits(Strict):
    """How much of the service a project may use. Null is unlimited."""

    requests_per_minute: StrictInt | None = Field(
        None, ge=1, description="Requests that each API key may send in a minute."
    )
    queued_jobs: StrictInt | None = Field(
        None, ge=0, description="Jobs that may wait in the queue at the same time."
    )
    running_jobs: StrictInt | None = Field(
        None, ge=0, description="Jobs that workers run at the same time; the others wait."
    )
    device_hours_per_month: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Hours of devices that jobs may use in a calendar month (UTC).",
    )
    stored_bytes: StrictInt | None = Field(
        None, ge=0, description="Bytes that datasets, checkpoints and logs may take."
    )


def service_limits(settings: Settings) -> Limits:
    """The limits of every project that has none of its own."""
    return Limits.model_validate(
        {name: getattr(settings, f"limit_{name}") for name in Limits.model_fields}
    )


def limits_in_force(settings: Settings, own: Mapping[str, Any]) -> Limits:
    """A project's own limits and, where it has none, the service's."""
    return service_limits(settings).model_copy(update=dict(own))
