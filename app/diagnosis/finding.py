"""What a check of an installation found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Whether something works."""

    OK = "ok"
    WARNING = "warning"  # the service works, but not as its operator may think
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, what was found and, unless it works, what to do."""

    checked: str
    state: State
    found: str
    remedy: str | None = None


def works(checked: str, found: str) -> Finding:
    """Something works."""
    return Finding(checked, State.OK, found)


def doubtful(checked: str, found: str, remedy: str) -> Finding:
    """Something works, but maybe not as it should."""
    return Finding(checked, State.WARNING, found, remedy)


def broken(checked: str, found: str, remedy: str) -> Finding:
    """Something does not work."""
    return Finding(checked, State.FAILED, found, remedy)
