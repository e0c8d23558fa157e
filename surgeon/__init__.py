"""The Python client and the `surgeon` command. Neither imports the server or torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.client import (
        ApiError,
        AsyncClient,
        Client,
        DamagedDownload,
        InvalidRequest,
        JobFailed,
        JobUnfinished,
        Unreachable,
    )

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "DamagedDownload",
    "InvalidRequest",
    "JobFailed",
    "JobUnfinished",
    "Unreachable",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'surgeon' has no attribute {name!r}")
    from surgeon import client  # imported late: `surgeon.demo.agreement` needs no HTTP library

    return getattr(client, name)
