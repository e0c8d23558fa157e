"""Pages of lists, and the opaque cursors that lead from one page to the next."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from app.db import EPOCH, MICROSECOND
from app.errors import Unprocessable

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    data: list[Item] = Field(description="The entries of this page.")
    next_cursor: str | None = Field(
        description="The `cursor` that asks for the next page; null on the last page."
    )
    has_more: bool = Field(description="Whether there is a next page.")


class TailPage(Page[Item], Generic[Item]):
    """One page of a list that grows at its end."""

    next: str = Field(
        description="The path that continues after this page, also after the last one: asked again "
        "later, it answers what was added since, each entry once."
    )


Limit = Annotated[
    int, Query(ge=1, le=200, description="The largest number of entries to answer with.")
]
Cursor = Annotated[
    str | None,
    Query(
        max_length=200,
        description="The `next_cursor` of the previous page; leave it out to get the first page.",
    ),
]


def encode_cursor(position: str) -> str:
    """A position as a cursor. It is opaque to clients, so that its meaning can change."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The position in a cursor. Raises Unprocessable unless this service issued it."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _unknown() from error
    if "\0" in position:  # Postgres cannot store it
        raise _unknown()
    return position


def decode_position(cursor: str) -> int:
    """The position in a cursor whose positions are numbers. Raises Unprocessable."""
    text = decode_cursor(cursor)
    if not re.fullmatch(r"[0-9]{1,18}", text):  # fits a 64-bit integer
        raise _unknown()
    return int(text)


def encode_moment(moment: datetime, row_id: str) -> str:
    """The cursor of a row in a list that is sorted by moment and id."""
    return encode_cursor(f"{(moment - EPOCH) // MICROSECOND} {row_id}")


def decode_moment(cursor: str) -> tuple[datetime, str]:
    """The moment and the id in such a cursor. Raises Unprocessable."""
    found = re.fullmatch(r"([0-9]{1,16}) (\w+)", decode_cursor(cursor))  # 16 digits last until 2286
    if found is None:
        raise _unknown()
    return EPOCH + int(found[1]) * MICROSECOND, found[2]


def _unknown() -> Unprocessable:
    detail = "no such cursor; use the next_cursor of the previous page"
    return Unprocessable(detail, errors=[{"pointer": "/cursor", "detail": detail}])


def first_page(rows: Sequence[Item], limit: int) -> tuple[list[Item], bool]:
    """The first ``limit`` rows and whether more follow; takes up to ``limit + 1`` rows."""
    return list(rows[:limit]), len(rows) > limit
