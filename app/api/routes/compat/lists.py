"""Lists that go on after the id of an entry, as OpenAI's do, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import ColumnElement, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import Unprocessable
from surgery.errors import printable

Limit = Annotated[int, Query(ge=1, le=100, description="At most so many.")]
After = Annotated[
    str | None, Query(max_length=64, description="The id of the last entry of a page.")
]


def older(order: Sequence[InstrumentedAttribute[Any]], row: Any) -> ColumnElement[bool]:
    """Whether an entry comes after this one in a list by these columns, newest first."""
    values = (getattr(row, column.key) for column in order)
    return tuple_(*order) < tuple_(*values, types=[column.type for column in order])


def no_such(after: str, what: str) -> Unprocessable:
    """The error for an `after` that names nothing."""
    detail = f"after: there is no {what} {printable(after)!r}"
    return Unprocessable(detail, errors=[{"pointer": "/after", "detail": detail}])
