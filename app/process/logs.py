"""The log of every process: one line a message, whatever a request put into it.

Every process sets its log up here. What a message is about (its request, its job, the attempt's
epoch) is noted once where the work begins, and each line of the JSON form has it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LONGEST = 2000  # characters of a message; a request's path alone may have more
LONGEST_TRACE = 20_000
# Characters that end or rewrite a line in some terminal or reader of logs: the control characters
# of ASCII and Latin-1 (ANSI sequences begin with one), Unicode's line and paragraph separators,
# marks that change the direction of the text, and halves of characters.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text on one line of bounded length, with unsafe characters escaped as Python does."""
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text):,} characters)"
    return _UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)


class OneLine(logging.Filter):
    """Makes every record safe to print, for whatever formatter comes after it.

    The message becomes one line. Each line of a traceback gets a mark before it, so that no text
    within an error can look like a message of its own.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the parts of a record that may hold text of a request; keeps every record."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit their message
            message = f"{record.msg} {record.args}"
        record.msg, record.args = one_line(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        for name in ("exc_text", "stack_info"):
            text = getattr(record, name)
            if text and not text.startswith("| "):
                lines = text[-LONGEST_TRACE:].split("\n")
                setattr(record, name, "\n".join(f"| {one_line(line)}" for line in lines))
        return True


# What a message can say about itself with ``extra``, beside what its block is about.
FIELDS = ("request_id", "job_id", "epoch", "method", "path", "status", "milliseconds")
_subject: ContextVar[Mapping[str, Any]] = ContextVar("subject", default={})  # noqa: B039  # never changed


def note_subject(**fields: Any) -> None:
    """Note what the messages of this task, or of this thread, are about from now on.

    It replaces what was noted before. Fields that are None are left out. Threads that are started
    later do not know it.
    """
    _subject.set({name: value for name, value in fields.items() if value is not None})


class JsonLine(logging.Formatter):
    """Each message as one JSON object: time, level, logger, message, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_subject.get(),
            **{name: vars(record)[name] for name in FIELDS if vars(record).get(name) is not None},
        }
        if record.exc_text:  # which the filter has made
            line["exception"] = record.exc_text
        return json.dumps({name: _bounded(value) for name, value in line.items()}, default=str)


def _bounded(value: Any) -> Any:
    return value[:LONGEST_TRACE] if isinstance(value, str) else value


def set_up_log(level: str, form: Literal["text", "json"] = "text") -> None:
    """Print the messages of this process to its standard error, one line each."""
    # At the level INFO, Alembic and httpx log details that no operator needs.
    logging.basicConfig(level="WARNING", format=FORMAT)
    for handler in logging.getLogger().handlers:
        if not any(isinstance(each, OneLine) for each in handler.filters):
            handler.addFilter(OneLine())
        if form == "json":
            handler.setFormatter(JsonLine())
    for name in ("surgeon", "uvicorn.error"):
        logging.getLogger(name).setLevel(level)
