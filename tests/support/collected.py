"""The ids of all tests that this process found, before any are left out."""

from __future__ import annotations

import pytest

COLLECTED = pytest.StashKey[list[str]]()
# What takes longest begins first, so that no process is left with it at the end.
ORDER = ("service", "web", "worker", "surgeon", "deployment", "app")


def place_of(item: pytest.Item) -> int:
    """Of a test's folder among those of a run."""
    folder = item.nodeid.split("/")[1]
    return ORDER.index(folder) if folder in ORDER else len(ORDER)
