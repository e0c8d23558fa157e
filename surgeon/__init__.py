"""The client of the service and the `surgeon` command; neither imports the server or torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name != "Client":
        raise AttributeError(f"module 'surgeon' has no attribute {name!r}")
    from surgeon.client import Client  # with its HTTP library, which the dataset needs not

    return Client
