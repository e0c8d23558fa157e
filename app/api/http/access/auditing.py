"""Records every change that a request makes, whatever operation makes it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.orm import Session
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.audit import Action, record_change
from app.access.principal import Scope as KeyScope
from app.api.http.access.scopes import PREFIXES, scope_of
from app.db import Database

RECORDED = "recorded_change"  # in the state of a request
TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


class AuditMiddleware:
    """Adds a line to the audit log once an operation has succeeded, before it is answered.

    An operation may add it itself, in its own transaction (`Change`).
    """

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self.app = app
        self.database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not _changes(scope):
            await self.app(scope, receive, send)
            return

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                headers = Headers(raw=message["headers"])
                if "idempotent-replayed" not in headers and RECORDED not in scope["state"]:
                    target = _target(scope, headers)
                    await asyncio.to_thread(record_change, self.database, _action(scope), target)
            await send(message)

        await self.app(scope, receive, recorded)


def _action(scope: Scope) -> Action:
    state = scope["state"]
    data: dict[str, Any] = {"method": scope["method"], "path": scope["path"]}
    return Action(state["principal"], scope["route"].name, state.get("request_id"), data)


class Change:
    """What a request changes, for operations that record it in their own transaction."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def record(self, session: Session, target: str) -> None:
        """Add the line to the audit log; the middleware then adds none."""
        _action(self._scope).record(session, target)
        self._scope["state"][RECORDED] = True


async def change_of(request: Request) -> Change:
    """The change that this request makes."""
    return Change(request.scope)


ChangeDep = Annotated[Change, Depends(change_of)]


def _changes(scope: Scope) -> bool:
    """Whether a request changes something if it succeeds."""
    method, path = scope["method"], scope["path"]
    if not path.startswith(PREFIXES) or method in {"GET", "HEAD", "OPTIONS"}:
        return False
    given = QueryParams(scope["query_string"]).get("validate_only", "")
    return scope_of(method, path) is not KeyScope.READ and given.lower() not in TRUE


def _target(scope: Scope, headers: Headers) -> str | None:
    """The id of what was created or, if nothing was, of what the path names."""
    created = headers.get("location")
    if created is not None:
        return created.rpartition("/")[2]
    return next(iter(scope["path_params"].values()), None)
