"""Wakes everyone in this process who follows a job, and holds what they are sent.

One task reads the changes of all followed jobs, so a follower costs memory and nothing else. It
sleeps while nobody follows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from app.api.following.changes import (
    Changes,
    Cursor,
    JobState,
    StoredEvent,
    read_changes,
    read_events_after,
)
from app.api.following.shared_answers import SharedAnswers
from app.api.following.signals import watch
from app.db import Database
from app.process.restarts import surviving

EVENTS_KEPT = 100  # of each followed job; whoever is slower reads them from the database
EVENTS_A_PAGE = 200  # that are read for one follower at once
BATCH_SECONDS = 0.02  # changes of this time are read together
RETRY_SECONDS = 1.0  # after the database did not answer


class Feed:
    """A followed job: its state, its newest events, and an event that every follower waits for."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.followers = 0
        self.known = asyncio.Event()  # whether the job was read once
        self.state: JobState | None = None
        self.seq: int | None = None  # of the newest event
        self._since = 0  # all later events are among the newest
        self._newest: deque[StoredEvent] = deque(maxlen=EVENTS_KEPT)
        self._changed = asyncio.Event()
        self.answers = SharedAnswers()  # to those who wait for the job

    @property
    def cursor(self) -> Cursor:
        """What is known of the job."""
        return Cursor(self.state.version, self.seq) if self.state else Cursor(seq=self.seq)

    def begin(self, newest: int) -> None:
        """Note which event was the newest when the job was first read."""
        if self.seq is None:
            self.seq = self._since = newest

    def add(self, event: StoredEvent) -> None:
        """Keep an event, and drop the oldest one if there are many."""
        if len(self._newest) == EVENTS_KEPT:
            self._since = self._newest[0].seq
        self._newest.append(event)
        self.seq = event.seq

    def later_than(self, seq: int) -> Sequence[StoredEvent] | None:
        """The events after this one; None if some of them are not here any more."""
        if self.seq is None or seq < self._since:
            return None
        later: list[StoredEvent] = []
        for event in reversed(self._newest):
            if event.seq <= seq:
                break
            later.append(event)
        return later[::-1]

    def wake(self) -> None:
        """Wake everyone who waits."""
        self.known.set()
        self._changed.set()
        self._changed = asyncio.Event()

    def next_change(self) -> asyncio.Event:
        """What will be set with the next change."""
        return self._changed


class Broadcaster:
    """Follows jobs for all requests of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._feeds: dict[str, Feed] = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._followed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let jobs be followed; at the end, every follower is sent away and the tasks stop."""
        self.closed = False
        try:
            yield
        finally:
            self.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()

    def close(self) -> None:
        """Send every follower away, since the process is about to stop."""
        self.closed = True
        for feed in self._feeds.values():
            feed.wake()

    @contextlib.contextmanager
    def follow(self, job_id: str) -> Iterator[Feed]:
        """Follow a job: once its feed is known, each change wakes those who wait for the next."""
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = Feed(job_id)
        feed.followers += 1
        self._followed.set()
        try:
            if self.closed:
                feed.wake()
            elif not feed.known.is_set():
                self._start()
                self.mark([job_id])
            yield feed
        finally:
            feed.followers -= 1
            if feed.followers == 0:
                self._feeds.pop(job_id, None)
            if not self._feeds:
                self._followed.clear()

    def mark(self, job_ids: Iterable[str]) -> None:
        """Read these jobs soon, as far as anybody follows them."""
        for job_id in job_ids:
            if job_id in self._feeds:
                self._dirty.add(job_id)
                self._wake.set()

    def mark_all(self) -> None:
        """Read every followed job soon."""
        self.mark(list(self._feeds))

    async def anybody(self) -> None:
        """Wait until any job is followed."""
        await self._followed.wait()

    async def events_after(self, feed: Feed, seq: int) -> Sequence[StoredEvent]:
        """The next events of a job after this one, from memory or from the database."""
        later = feed.later_than(seq)
        if later is not None:
            return later
        read = asyncio.to_thread(read_events_after, self._database, feed.job_id, seq, EVENTS_A_PAGE)
        return await read

    def _start(self) -> None:
        if not self._tasks:
            signals = partial(watch, self, self._database)
            self._tasks = [
                asyncio.create_task(self._forever("changes", self._read_changes)),
                asyncio.create_task(self._forever("signals", signals)),
            ]

    async def _forever(self, part: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task of which all followers depend, again and again if it fails."""
        while True:
            with surviving(part, SQLAlchemyError):
                await task()
            await asyncio.sleep(RETRY_SECONDS)
            self.mark_all()

    async def _read_changes(self) -> None:
        """Read what was marked."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(BATCH_SECONDS)
            self._wake.clear()
            marked, self._dirty = self._dirty & self._feeds.keys(), set()
            cursors = {job_id: self._feeds[job_id].cursor for job_id in marked}
            changes = await asyncio.to_thread(read_changes, self._database, cursors)
            self._apply(marked, changes)
            if not changes.complete:
                self.mark(marked)

    def _apply(self, marked: set[str], changes: Changes) -> None:
        for job_id, event in changes.events:
            feed = self._feeds.get(job_id)
            if feed is not None and feed.seq is not None and event.seq > feed.seq:
                feed.add(event)
        for job_id, state in changes.states.items():
            feed = self._feeds.get(job_id)
            if feed is not None:
                feed.state = state
                feed.begin(changes.newest[job_id])
        changed = changes.states.keys() | {job_id for job_id, _ in changes.events}
        for job_id in marked:
            feed = self._feeds.get(job_id)
            if feed is not None and (job_id in changed or not feed.known.is_set()):
                feed.wake()
