"""The client of the service and the `surgeon` command; neither imports the server or torch."""

from __future__ import annotations

from surgeon.client import Client

__all__ = ["Client"]
