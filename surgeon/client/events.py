"""Reads Server-Sent Events, as the WHATWG's standard has them, from pieces of bytes."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from surgeon.client.answers import parsed, unexpected
from surgery.schemas.answers.records import EventView

_LINE_END = re.compile(r"\r\n|\n|\r(?=.)", re.DOTALL)  # a last \r may be half of \r\n


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, or how far it is (``type`` `progress`).

    ``seq`` numbers what is stored; progress has none, since it is not told again.
    """

    type: str
    data: dict[str, Any]
    seq: int | None = None
    at: datetime | None = None


@dataclass
class Message:
    """A message of an event stream."""

    event: str = "message"
    data: list[str] = field(default_factory=list)
    id: str | None = None


class EventStreamParser:
    """Turns pieces of an event stream into messages. ``last_id`` is where to go on from."""

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.restart()

    def restart(self) -> None:
        """Begin to read a new connection, without what the last one left incomplete."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self._message = Message()

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that this piece completes."""
        *lines, self._rest = _LINE_END.split(self._rest + self._decode(piece))
        for line in lines:
            if line:
                self._take(line)
            elif self._message.data:
                self.last_id = self._message.id or self.last_id
                yield self._message
                self._message = Message()
            else:
                self._message = Message()

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._message.event = value
        elif name == "data":
            self._message.data.append(value)
        elif name == "id" and "\0" not in value:
            self._message.id = value


def event_of(message: Message) -> Event:
    """What a message of a job's stream says. Raises ApiError if it is of another shape."""
    try:
        body = json.loads("\n".join(message.data))
    except ValueError as error:
        raise unexpected(message.event, f"no JSON: {error}") from error
    if message.id is None:
        return Event(message.event, dict(body))
    view = parsed(EventView, body)
    return Event(view.type, view.data, view.seq, view.at)
