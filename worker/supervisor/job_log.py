"""The log of an attempt: what the supervisor says about it, and what its processes print.

Lines are kept in memory and stored every few seconds, by a thread of its own, so that slow storage
delays nothing else. Processes are not trusted: what they print is shown without this process's
secrets and without control characters.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Self
from urllib.parse import unquote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from app.artifacts.attempt_logs import SEGMENT_BYTES, is_kept, log_key, log_line, segment_key
from app.artifacts.storage import Storage
from app.db import Database
from app.jobs.attempts import note_log
from app.jobs.state_machine import Lease
from app.process.restarts import lasting_thread
from app.settings import Settings

log = logging.getLogger("surgeon.worker")
STORE_SECONDS = 2.0  # between two writes of a log that grows
SHORTEST_SECRET = 6  # characters; blotting out a shorter text would make lines unreadable
SECRET_NAMES = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE
)
BLOT = "[secret]"


class Scrubber:
    """Makes lines of text safe to show: without secrets, and without control characters."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
        # The longest first, so that nothing is left of a secret that contains another one.
        patterns = map(re.escape, sorted(known, key=len, reverse=True))
        self._secrets = re.compile("|".join(patterns)) if known else None

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> Self:
        """Blots out the secrets of the settings, of URLs, and of variables that sound like one."""
        secrets = {text for name, text in environment.items() if SECRET_NAMES.search(name)}
        for token in (settings.hf_token, settings.hub_token):
            if token:
                secrets.add(token.get_secret_value())
        redis = settings.redis_url.get_secret_value() if settings.redis_url else ""
        urls = [settings.database_url, settings.resolved_database_url, settings.artifacts_url]
        for url in [redis, *urls, *environment.values()]:
            secrets |= _passwords(url)
        return cls({*secrets, *settings.api_key_hashes})

    def clean(self, text: str) -> str:
        """The text as it may be shown."""
        if self._secrets is not None:
            text = self._secrets.sub(BLOT, text)
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


NO_SECRETS = Scrubber()
"""Escapes control characters only."""


def _passwords(text: str) -> set[str]:
    """The password in a URL, as it is written there and as it is sent."""
    if "@" not in text or "://" not in text:
        return set()
    try:
        password = urlsplit(text).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()


class JobLog:
    """The log of one attempt.

    No other attempt writes into its folder, so a worker that has lost its lease does no harm.
    """

    def __init__(
        self, database: Database, storage: Storage, lease: Lease, scrubber: Scrubber
    ) -> None:
        self._database, self._storage, self._lease = database, storage, lease
        self._scrubber = scrubber
        self._folder = log_key(lease.job_id, lease.epoch)
        self._size = self._noted = 0
        self._unsaved: dict[int, bytearray] = {}  # segments that are not stored as they are now
        self._open = bytearray()  # the last segment
        self._stored: set[int] = set()
        self._deleted = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = lasting_thread("job-log", self._keep_storing, self._stop)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._store(closed=True)

    def write(self, source: str, text: str) -> None:
        """Add a line; after the end of the attempt it is dropped."""
        if self._stop.is_set():
            return
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = log_line(moment, source, self._scrubber.clean(text)).encode(errors="replace")
        with self._lock:
            self._add(line)

    def _add(self, line: bytes) -> None:
        while line:
            number = self._size // SEGMENT_BYTES
            room = (number + 1) * SEGMENT_BYTES - self._size
            if room == SEGMENT_BYTES:
                self._open = bytearray()
            self._open += line[:room]
            self._unsaved[number] = self._open
            self._size += len(line[:room])
            line = line[room:]
        for number in [each for each in self._unsaved if not is_kept(each, self._size)]:
            del self._unsaved[number]  # memory is bounded even while the storage fails

    def _keep_storing(self) -> None:
        while not self._stop.wait(STORE_SECONDS):
            if self._size > self._noted:
                self._store(closed=False)

    def _store(self, *, closed: bool) -> None:
        """Store what is new; a failure is logged, and the next call stores it too."""
        try:
            self._try_to_store(closed=closed)
        except (OSError, SQLAlchemyError) as error:
            log.warning("%s: its log could not be stored: %s", self._lease.job_id, error)

    def _try_to_store(self, *, closed: bool) -> None:
        if self._deleted:
            return
        with self._lock:
            size = self._size
            unsaved = {number: bytes(content) for number, content in self._unsaved.items()}
        for number, content in unsaved.items():
            self._storage.put_file(segment_key(self._folder, number), content)
            self._stored.add(number)
        # Files first, so that the row never promises what is not there.
        lease = self._lease
        if not note_log(self._database, lease.job_id, lease.epoch, size, closed=closed):
            self._deleted = True
            self._storage.delete(self._folder)
            return
        self._noted = size
        with self._lock:
            for number, content in unsaved.items():
                if len(self._unsaved.get(number, b"")) == len(content):
                    del self._unsaved[number]
        for number in [each for each in self._stored if not is_kept(each, size)]:
            self._storage.delete(segment_key(self._folder, number))
            self._stored.discard(number)
