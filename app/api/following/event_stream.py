"""A job's events as Server-Sent Events: those that were missed, then each as it is committed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from app.api.following.broadcaster import Broadcaster, Feed
from app.api.following.changes import JobState, StoredEvent
from app.api.following.waiting import happens_within

Json = dict[str, Any]
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept"}
RETRY_MILLISECONDS = 2000  # after which a client connects again
SILENCE_SECONDS = 15.0  # until a comment is sent, so that nothing between closes the connection
PROGRESS_SECONDS = 1.0  # between two reports of progress
# After this time the stream ends and the client connects again, and its API key is checked again.
STREAM_SECONDS = 900.0


def wants_event_stream(accept: str) -> bool:
    """Whether an Accept header prefers an event stream to JSON."""
    weights = {MEDIA_TYPE: 0.0, "application/json": 0.0}
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        if kind in weights:
            weights[kind] = _weight(parameters)
    return weights[MEDIA_TYPE] > 0 and weights[MEDIA_TYPE] >= weights["application/json"]


def _weight(parameters: list[str]) -> float:
    given = [each.removeprefix("q=") for each in parameters if each.startswith("q=")]
    try:
        return float(given[0]) if given else 1.0
    except ValueError:
        return 1.0


def event_stream(request: Request, job_id: str, after: int) -> Response:
    """The answer that sends a job's events after the one with this number."""
    broadcaster: Broadcaster = request.app.state.broadcaster
    messages = _Stream(broadcaster, job_id, after).messages()
    return StreamingResponse(messages, headers=HEADERS, media_type=MEDIA_TYPE)


class _Stream:
    """One follower, and how far it was sent what.

    It keeps a position and no queue. A client that reads slowly only falls behind, and is sent
    the rest from the database, a page at a time.
    """

    def __init__(self, broadcaster: Broadcaster, job_id: str, after: int) -> None:
        self._broadcaster, self._job_id, self._seq = broadcaster, job_id, after
        self._progress: Json | None = None  # as it was last sent
        self._progress_due = self._sent_at = 0.0

    async def messages(self) -> AsyncIterator[bytes]:
        """Everything that is sent, until the job has ended."""
        yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
        self._sent_at = time.monotonic()
        cut_at = self._sent_at + STREAM_SECONDS
        with self._broadcaster.follow(self._job_id) as feed:
            await feed.known.wait()
            while not self._broadcaster.closed and time.monotonic() < cut_at:
                change, state = feed.next_change(), feed.state  # both before the events are read
                if state is None:  # the job was deleted
                    return
                message = await self._next(feed, state)
                if message:
                    self._sent_at = time.monotonic()
                    yield message
                elif state.terminal:
                    yield _message("done", {"id": self._job_id, "status": state.status})
                    return
                else:
                    await happens_within(change, min(self._due(state), cut_at) - time.monotonic())

    async def _next(self, feed: Feed, state: JobState) -> bytes:
        """The events that are new, else the progress or a sign of life; empty if none is due."""
        events = await self._broadcaster.events_after(feed, self._seq)
        now = time.monotonic()
        if events:
            self._seq = events[-1].seq
            return b"".join(map(_event, events))
        if self._has_progress(state) and now >= self._progress_due:
            self._progress, self._progress_due = _progress(state), now + PROGRESS_SECONDS
            return _message("progress", self._progress)
        return b": nothing new\n\n" if now >= self._sent_at + SILENCE_SECONDS else b""

    def _has_progress(self, state: JobState) -> bool:
        running = state.progress is not None and not state.terminal
        return running and _progress(state) != self._progress

    def _due(self, state: JobState) -> float:
        """When something is to be sent, if nothing changes before."""
        silent = self._sent_at + SILENCE_SECONDS
        return min(silent, self._progress_due) if self._has_progress(state) else silent


def _progress(state: JobState) -> Json:
    return {"status": state.status, "phase": state.phase, "progress": state.progress}


def _event(event: StoredEvent) -> bytes:
    return f"id: {event.seq}\nevent: {event.type}\ndata: {event.json}\n\n".encode()


def _message(kind: str, data: Json) -> bytes:
    """A message without an id, so that a client's Last-Event-ID stays that of an event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
