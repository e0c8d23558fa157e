"""Who sends a request, and what their key allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.db.tables import DEFAULT_PROJECT


class Scope(StrEnum):
    """What an API key allows. Each scope includes the ones before it."""

    READ = "read"  # read everything of the project, and compute what stores nothing
    SUBMIT = "submit"  # also create, change and delete jobs, datasets and checkpoints
    ADMIN = "admin"  # also administer the project's keys and webhooks, and read its audit log


ALL_SCOPES = frozenset(Scope)


def with_included(scopes: Iterable[str]) -> frozenset[Scope]:
    """Scopes together with those that they include."""
    order = list(Scope)
    last = max((order.index(Scope(scope)) for scope in scopes), default=-1)
    return frozenset(order[: last + 1])


@dataclass(frozen=True)
class Principal:
    """Who sends a request, and what they may do."""

    project: str = DEFAULT_PROJECT
    scopes: frozenset[Scope] = ALL_SCOPES
    key: str | None = None  # the id of an API key; None without keys
    limits: Mapping[str, float] = field(default_factory=dict)  # the project's own

    @property
    def actor(self) -> str:
        """The name under which changes are recorded."""
        return self.key or "anonymous"

    @property
    def operates(self) -> bool:
        """Whether this is the service's operator: an administrator of the default project."""
        return self.project == DEFAULT_PROJECT and Scope.ADMIN in self.scopes
