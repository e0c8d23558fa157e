"""API keys: how they are made and stored, and whose key a request has."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.access.principal import ALL_SCOPES, Principal, with_included
from app.db import Database, db_now
from app.db.tables import DEFAULT_PROJECT, ApiKey, Project, new_id
from app.errors import Unauthorized

log = logging.getLogger("surgeon.api")
KEY = re.compile(r"sk_([0-9a-z]{26})_[A-Za-z0-9_-]{43}")  # 32 random bytes in URL-safe base64
CACHE_SECONDS = 1.0  # how long another process may still accept a key that was revoked
USE_SECONDS = 60.0  # how often the last use of a key is written
INVALID: Mapping[str, str] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
MISSING: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


def sha256_of(key: str) -> str:
    """The form in which a key is stored. The key is random, so it needs no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key() -> tuple[str, str]:
    """A new key's id and the key itself, which has the id in it."""
    identifier = new_id("key")
    return identifier, f"sk_{identifier.removeprefix('key_')}_{secrets.token_urlsafe(32)}"


def has_keys(database: Database) -> bool:
    """Whether any API key was ever made, revoked ones included."""
    with database.read() as session:
        return bool(session.scalar(select(exists(select(ApiKey.id)))))


@dataclass(frozen=True)
class _Stored:
    """A key as it was in the database a moment ago."""

    sha256: str
    principal: Principal
    expired_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class _Default:
    """What requests without a stored key depend on, as it was a moment ago."""

    limits: Mapping[str, float]  # of the default project
    any_key: bool


class Keyring:
    """Finds out whose key a request has.

    What was read from the database is used again for a second, so that a request usually costs no
    statement. A key that this process revokes is forgotten at once.
    """

    def __init__(self, database: Database, hashes: Sequence[str]) -> None:
        self._database = database
        self._hashes = tuple(hashes)
        self._known: dict[str, tuple[float, _Stored]] = {}
        self._default = (time.monotonic(), self._load_default())
        self._used: dict[str, float] = {}
        # Uses are written by a thread of their own: no request waits for them.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="key-use")

    @property
    def believed_open(self) -> bool:
        """Whether no key is needed, as far as is known without asking the database."""
        return not self._hashes and not self._default[1].any_key

    async def anonymous(self) -> Principal | None:
        """Whoever sends no key: the owner of the default project, or None if keys are needed.

        Keys are needed once there is one, in the environment or in the database. It stays so when
        they are all revoked: revoking the last key must not open the service to everybody.
        """
        default = await self._read_default()
        if self._hashes or default.any_key:
            return None
        return Principal(limits=default.limits)

    async def holder_of(self, authorization: str | None) -> Principal:
        """Whose key an ``Authorization`` header has. Raises Unauthorized."""
        scheme, _, given = (authorization or "").partition(" ")
        key = given.strip()
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized(headers=MISSING)
        digest = sha256_of(key)
        if self._is_in_environment(digest):
            default = await self._read_default()
            return Principal(DEFAULT_PROJECT, ALL_SCOPES, f"env-{digest[:12]}", default.limits)
        form = KEY.fullmatch(key)
        stored = await self._find(f"key_{form[1]}") if form else None
        if stored is None or not hmac.compare_digest(digest, stored.sha256):
            raise Unauthorized(
                "this API key is not known here: it was mistyped, belongs to another service, or "
                "its hash was taken out of SURGEON_API_KEY_HASHES",
                headers=INVALID,
            )
        # Only now, as whoever has no such key must not learn that there is one.
        if stored.revoked_at is not None:
            raise _ended("was revoked", stored.revoked_at)
        if stored.expired_at is not None:
            raise _ended("expired", stored.expired_at)
        self._note_use(str(stored.principal.key))
        return stored.principal

    def forget(self, key_id: str) -> None:
        """Look a key up again with the next request, because it was changed."""
        self._known.pop(key_id, None)

    def forget_all(self) -> None:
        """Look everything up again with the next request."""
        self._known.clear()
        self._default = (-CACHE_SECONDS, self._default[1])

    def close(self) -> None:
        """Wait until every use is written."""
        self._writer.shutdown()

    def _is_in_environment(self, digest: str) -> bool:
        # Every hash is compared, so that the time it takes reveals nothing about the keys.
        matches = [hmac.compare_digest(digest, known) for known in self._hashes]
        return any(matches)

    async def _find(self, key_id: str) -> _Stored | None:
        known = self._known.get(key_id)
        if known is not None and time.monotonic() - known[0] < CACHE_SECONDS:
            return known[1]
        began = time.monotonic()
        stored = await asyncio.to_thread(self._load, key_id)
        if stored is not None:
            self._known[key_id] = (began, stored)
        return stored

    def _load(self, key_id: str) -> _Stored | None:
        expired = ApiKey.expires_at <= db_now()
        query = (
            select(ApiKey, Project.limits, expired)
            .join(Project, Project.id == ApiKey.project)
            .where(ApiKey.id == key_id)
        )
        with self._database.read() as session:
            found = session.execute(query).one_or_none()
        if found is None:
            return None
        row, limits, is_over = found
        principal = Principal(row.project, with_included(row.scopes), row.id, limits)
        return _Stored(row.sha256, principal, row.expires_at if is_over else None, row.revoked_at)

    async def _read_default(self) -> _Default:
        read_at, known = self._default
        if time.monotonic() - read_at < CACHE_SECONDS:
            return known
        began = time.monotonic()
        default = await asyncio.to_thread(self._load_default)
        self._default = (began, default)
        return default

    def _load_default(self) -> _Default:
        query = select(Project.limits, exists(select(ApiKey.id))).where(
            Project.id == DEFAULT_PROJECT
        )
        with self._database.read() as session:
            limits, any_key = session.execute(query).one()
        return _Default(limits, any_key)

    def _note_use(self, key_id: str) -> None:
        now = time.monotonic()
        if now - self._used.get(key_id, -USE_SECONDS) >= USE_SECONDS:
            self._used[key_id] = now
            self._writer.submit(self._write_use, key_id)

    def _write_use(self, key_id: str) -> None:
        stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < db_now(-USE_SECONDS))
        try:
            with self._database.write() as session:
                session.execute(
                    update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=db_now())
                )
        except SQLAlchemyError as error:
            log.warning("the use of %s was not recorded: %s", key_id, error)


def _ended(how: str, at: datetime) -> Unauthorized:
    moment = at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Unauthorized(f"this API key {how} at {moment}; use another one", headers=INVALID)
