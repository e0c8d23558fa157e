"""Which tests a process found, in which order they run, and which are left to the slow ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

COLLECTED = pytest.StashKey[list[str]]()  # all ids, before any are left out
# What takes longest begins first, so that no process is left with it at the end.
ORDER = ("service", "web", "worker", "surgeon", "deployment", "app")


def place_of(item: pytest.Item) -> int:
    """Of a test's folder among those of a run."""
    folder = item.nodeid.split("/")[1]
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


def one_in(every: int, cases: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The parameters of a test, of which only one in so many is run by ``make test``.

    ``every`` should have no divisor in common with the length of what the cases go round in, so
    that each encoder and each problem is among the quick ones.
    """
    return [
        case if place % every == 0 else pytest.param(*case, marks=pytest.mark.slow)
        for place, case in enumerate(cases)
    ]
