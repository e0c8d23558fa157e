"""The Python client of the service.

The logic is written once and does no I/O (``calls``, ``transfers``, ``jobs``, with what they are
made of in ``requests``, ``answers``, ``events`` and ``retries``); ``steps`` has its two drivers,
and ``clients`` what users import.
"""

from __future__ import annotations

from surgeon.client.calls import POLL_SECONDS
from surgeon.client.clients import AsyncClient, AsyncJob, Client, Job
from surgeon.client.errors import (
    ApiError,
    DamagedDownload,
    InvalidRequest,
    JobFailed,
    JobUnfinished,
    Unreachable,
)
from surgeon.client.events import Event

__all__ = [
    "POLL_SECONDS",
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "DamagedDownload",
    "Event",
    "InvalidRequest",
    "Job",
    "JobFailed",
    "JobUnfinished",
    "Unreachable",
]
