"""Lists, newest first, with an opaque cursor."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from app.db import EPOCH, MICROSECOND
from app.errors import Unprocessable

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Part of a list."""

    data: list[Item]
    next_cursor: str | None
    has_more: bool


Limit = Annotated[int, Query(ge=1, le=200, description="How many.")]
Cursor = Annotated[
    str | None, Query(max_length=200, description="`next_cursor` of the page before.")
]


def encode_cursor(position: str) -> str:
    """Opaque to clients, so that what it means can change."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Raises Unprocessable when it is none of ours."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _unknown() from error
    if "\0" in position:  # which Postgres does not take
        raise _unknown()
    return position


def decode_position(cursor: str) -> int:
    """Of a cursor that is a number. Raises Unprocessable when it is none of ours."""
    text = decode_cursor(cursor)
    if not re.fullmatch(r"[0-9]{1,18}", text):  # what a database's integer holds
        raise _unknown()
    return int(text)


def encode_moment(moment: datetime, row_id: str) -> str:
    """Where a row stands in a list by moment and id."""
    return encode_cursor(f"{(moment - EPOCH) // MICROSECOND} {row_id}")


def decode_moment(cursor: str) -> tuple[datetime, str]:
    """Raises Unprocessable when it is none of ours."""
    found = re.fullmatch(r"([0-9]{1,16}) (\w+)", decode_cursor(cursor))  # until 2286
    if found is None:
        raise _unknown()
    return EPOCH + int(found[1]) * MICROSECOND, found[2]


def _unknown() -> Unprocessable:
    detail = "no such cursor; take next_cursor from the page before"
    return Unprocessable(detail, errors=[{"pointer": "/cursor", "detail": detail}])


def cut(rows: Sequence[Item], limit: int) -> tuple[list[Item], bool]:
    """The page and whether more follows, from ``limit + 1`` rows."""
    return list(rows[:limit]), len(rows) > limit
