"""The Python client and the `surgeon` command. Neither imports the server or torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name != "Client":
        raise AttributeError(f"module 'surgeon' has no attribute {name!r}")
    from surgeon.client import (
        Client,
    )  # imported late, because `surgeon.demo.agreement` needs no HTTP library

    return Client
