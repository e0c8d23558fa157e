"""The log of every process: one line a message, whatever a request put into it."""

from __future__ import annotations

import logging
import re

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


def set_up_log(level: str) -> None:
    """Print the messages of this process to its standard error, one line each."""
    # At the level INFO, Alembic and httpx log details that no operator needs.
    logging.basicConfig(level="WARNING", format=FORMAT)
    for handler in logging.getLogger().handlers:
        if not any(isinstance(each, OneLine) for each in handler.filters):
            handler.addFilter(OneLine())
    for name in ("surgeon", "uvicorn.error"):
        logging.getLogger(name).setLevel(level)
