"""Idempotency-Key: a POST that is sent again is answered as the first time, and does nothing.

Every POST route has the class `IdempotentRoute`. It takes the key before the operation begins, and
stores the answer after it. An operation that must never happen twice, even if the process dies
before it has answered, stores the answer in its own transaction (`KeyDep`, `keep_answer`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.datastructures import FormData, UploadFile

from app.api.deps import ServiceDep
from app.api.http.problems import TITLES
from app.db import Database
from app.errors import KeyAnswered, KeyInUse, Unprocessable
from app.service import Service
from app.submissions.idempotency import RENEW_SECONDS, HeldKey, StoredAnswer, take_key

log = logging.getLogger("surgeon.api")
HEADER = "Idempotency-Key"
KEPT_HEADERS = ("content-type", "location", "retry-after", "etag")
CHUNK_BYTES = 1 << 20
DESCRIPTION = (
    "A text of your choice, of 1 to 255 printable ASCII characters, that makes it safe to send the "
    "request again: for 24 hours the same request with the same key is answered as the first one "
    "was, with `Idempotent-Replayed: true`, and does nothing. Another request with the key is 422; "
    "while the first is in progress the answer is 409. A request that was refused (4xx) or failed "
    "(5xx) frees its key."
)

_BOOLEAN = TypeAdapter(bool)


class _Replay(Exception):
    """The request was answered before; raised to skip the operation."""

    def __init__(self, answer: StoredAnswer) -> None:
        self.answer = answer
        super().__init__()


async def take_request_key(
    request: Request,
    service: ServiceDep,
    key: Annotated[
        str | None,
        Header(
            alias=HEADER,
            min_length=1,
            max_length=255,
            pattern=r"^[ -~]+$",
            description=DESCRIPTION,
        ),
    ] = None,
) -> HeldKey | None:
    """The key of this request, taken; None for a request without one and for a dry run."""
    if len(request.headers.getlist(HEADER)) > 1:
        raise Unprocessable(f"{HEADER} was sent twice; send one")
    if key is None or _is_dry_run(request):
        return None
    digest = await _request_digest(request)
    taken = await run_in_threadpool(take_key, service.database, service.project, key, digest)
    if isinstance(taken, StoredAnswer):
        raise _Replay(taken)
    request.state.held_key = taken
    return taken


KeyDep = Annotated[HeldKey | None, Depends(take_request_key)]


def keep_answer(session: Session, key: HeldKey | None, response: Response) -> None:
    """Store an answer in the transaction that makes it true, if the request has a key."""
    if key is not None:
        key.keep(session, _stored(response))


class IdempotentRoute(APIRoute):
    """A route whose POST operations take an Idempotency-Key."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._takes_keys = "POST" in (options.get("methods") or ())
        if self._takes_keys:
            given = options.get("dependencies") or ()
            options["dependencies"] = [*given, Depends(take_request_key)]
            conflict = {409: {"description": TITLES[409]}}
            options["responses"] = conflict | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The operation, between taking the request's key and storing the answer."""
        operation = super().get_route_handler()
        return _answering_once(operation) if self._takes_keys else operation


def _answering_once(
    operation: Callable[[Request], Coroutine[Any, Any, Response]],
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def handle(request: Request) -> Response:
        if HEADER not in request.headers:
            return await operation(request)
        async with _renewing(request):
            try:
                response = await operation(request)
            except _Replay as replay:
                return _replayed(replay.answer)
            except BaseException:
                await run_in_threadpool(_release, request)
                raise
            await run_in_threadpool(_keep, request, response)
            return response

    return handle


@asynccontextmanager
async def _renewing(request: Request) -> AsyncIterator[None]:
    """Hold the request's key, from when it is taken, for as long as the operation takes."""
    task = asyncio.create_task(_renew(request))
    try:
        yield
    finally:
        task.cancel()


async def _renew(request: Request) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        key = _key_of(request)
        if key is not None:
            try:
                await run_in_threadpool(key.renew, _database(request))
            except SQLAlchemyError as error:
                log.warning("an idempotency key was not renewed, trying again: %s", error)


def _keep(request: Request, response: Response) -> None:
    """Store the answer, unless the operation has; free the key if nothing was done."""
    key = _key_of(request)
    if key is None:
        return
    if response.status_code >= 400:
        _release(request)
        return
    try:
        with _database(request).write() as session:
            keep_answer(session, key, response)
    except KeyInUse:
        pass  # the operation has stored it, or the key was lost; what was done is done
    except SQLAlchemyError as error:
        log.warning("the answer to an idempotency key was not stored: %s", error)


def _release(request: Request) -> None:
    key = _key_of(request)
    if key is None:
        return
    try:
        key.release(_database(request))
    except SQLAlchemyError as error:
        log.warning("an idempotency key stays taken for some seconds: %s", error)


def _key_of(request: Request) -> HeldKey | None:
    return getattr(request.state, "held_key", None)


def _database(request: Request) -> Database:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service.database


def _stored(response: Response) -> StoredAnswer:
    """An answer as it is stored: without its body if that must not be stored anywhere."""
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    secret = "no-store" in response.headers.get("cache-control", "")
    body = None if secret else bytes(response.body).decode()
    return StoredAnswer(response.status_code, headers, body)


def _replayed(answer: StoredAnswer) -> Response:
    if answer.body is None:
        where = answer.headers.get("location")
        raise KeyAnswered(
            "the first request with this Idempotency-Key succeeded, but its answer held a secret, "
            "which is shown once and not stored; delete what it created"
            f"{f' ({where})' if where else ''} and create another with a new key",
            headers={"Location": where} if where else {},
        )
    headers = {**answer.headers, "Idempotent-Replayed": "true"}
    return Response(answer.body, answer.status, headers)


def _is_dry_run(request: Request) -> bool:
    try:
        return _BOOLEAN.validate_python(request.query_params.get("validate_only", "false"))
    except ValidationError:
        return True  # the operation refuses the value


async def _request_digest(request: Request) -> str:
    """The SHA-256 of a request: its method, path, query and body.

    Of a form, the parts are hashed: the boundary between them differs from request to request.
    """
    digest = hashlib.sha256()
    head = (request.method, request.url.path, request.url.query)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    _add(digest, *(text.encode() for text in (*head, kind)))
    if kind == "multipart/form-data":
        await run_in_threadpool(_add_parts, digest, await request.form())
    else:
        _add(digest, await request.body())
    return digest.hexdigest()


def _add(digest: Any, *fields: bytes) -> None:
    """Hash fields so that no two lists of fields have the same bytes."""
    for field in fields:
        digest.update(len(field).to_bytes(8))
        digest.update(field)


def _add_parts(digest: Any, form: FormData) -> None:
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            _add(digest, name.encode(), value.encode())
            continue
        content = hashlib.sha256()
        value.file.seek(0)  # spooled to the disk if it is large
        while chunk := value.file.read(CHUNK_BYTES):
            content.update(chunk)
        value.file.seek(0)
        _add(digest, name.encode(), (value.filename or "").encode(), content.digest())
