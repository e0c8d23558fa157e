"""Pages of lists, and the opaque cursors that lead from one page to the next.

A list is walked by the values of the columns that it is sorted by, never by counting rows, so that
every row which was there at the beginning comes exactly once, whatever is inserted or deleted
meanwhile. A cursor names the last row of its page. It is signed, with a key that every process of
an installation reads from the database, and bound to its list, project and filters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.api.deps import ServiceDep
from app.db import EPOCH, MICROSECOND, Database, Instant
from app.errors import Unprocessable

Item = TypeVar("Item")
Row = TypeVar("Row")
Column = InstrumentedAttribute[Any]
AnySelect = Select[*tuple[Any, ...]]
UNBOUND = {"limit", "cursor", "fields"}  # parameters that may change between two pages
MAC_BYTES = 12
BINDING_BYTES = 8


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
        max_length=400,
        description="The `next_cursor` of the previous page; leave it out to get the first page.",
    ),
]


@dataclass(frozen=True)
class Paging:
    """Which page of a list a request asks for.

    ``order`` is everywhere the columns that the list is sorted by, of which the last is unique.
    """

    limit: int
    cursor: str | None
    key: bytes  # signs cursors
    binding: bytes  # a digest of the list, its project and its filters

    def page(
        self,
        database: Database,
        query: Select[Row],
        order: Sequence[Column],
        view: Callable[[Row], Item],
        *,
        newest_first: bool = True,
    ) -> Page[Item]:
        """A page of the entities that a query selects, each as ``view`` shows it."""
        with database.read() as session:
            found = session.scalars(self.limited(query, order, newest_first=newest_first)).all()
        names = [column.key for column in order]
        rows, following = self.split(found, lambda row: [getattr(row, name) for name in names])
        data = [view(row) for row in rows]
        return Page(data=data, next_cursor=following, has_more=following is not None)

    def limited(
        self, query: AnySelect, order: Sequence[Column], *, newest_first: bool = True
    ) -> AnySelect:
        """The query for the rows of this page and one more. Raises Unprocessable."""
        if self.cursor is not None:
            values = [_value(c, v) for c, v in zip(order, self._position(len(order)), strict=True)]
            here, there = tuple_(*order), tuple_(*values, types=[c.type for c in order])
            query = query.where(here < there if newest_first else here > there)
        sorting = [column.desc() if newest_first else column.asc() for column in order]
        return query.order_by(*sorting).limit(self.limit + 1)

    def split(
        self, rows: Sequence[Row], position: Callable[[Row], Sequence[Any]]
    ) -> tuple[Sequence[Row], str | None]:
        """The rows of this page, and the cursor of the next one if there is a next one."""
        if len(rows) <= self.limit:
            return rows, None
        rows = rows[: self.limit]
        return rows, self._cursor(position(rows[-1]))

    def start(self, after: int = 0) -> int:
        """The number after which a page of numbered entries begins. Raises Unprocessable."""
        return after if self.cursor is None else max(after, int(self._position(1)[0]))

    def tail(
        self,
        database: Database,
        query: Select[Row],
        number: Column,
        view: Callable[[Row], Item],
        link: Callable[[int, str], str],
        after: int = 0,
    ) -> TailPage[Item]:
        """A page of entities in the order of their numbers, and where their list goes on.

        ``link`` makes the path of what follows from the last number and from its cursor.
        """
        start = self.start(after)
        ordered = query.where(number > start).order_by(number).limit(self.limit + 1)
        with database.read() as session:
            found = session.scalars(ordered).all()
        rows, following = self.split(found, lambda row: [getattr(row, number.key)])
        last = getattr(rows[-1], number.key) if rows else start
        return TailPage(
            data=[view(row) for row in rows],
            next_cursor=following,
            has_more=following is not None,
            next=link(last, self._cursor([last])),
        )

    def _cursor(self, position: Sequence[Any]) -> str:
        values = [_stored(value) for value in position]
        signed = self.binding + json.dumps(values, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._mac(signed) + signed).decode().rstrip("=")

    def _position(self, length: int) -> list[Any]:
        """The values of the columns in the row at which the cursor stands."""
        cursor = self.cursor or ""
        try:
            given = base64.b64decode(
                cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, ValueError) as error:
            raise _wrong_cursor(ALTERED) from error
        mac, signed = given[:MAC_BYTES], given[MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(signed)):
            raise _wrong_cursor(ALTERED)
        if signed[:BINDING_BYTES] != self.binding:
            raise _wrong_cursor(FOREIGN)
        values: list[Any] = json.loads(signed[BINDING_BYTES:])
        if len(values) != length:  # a list whose order has changed with a release
            raise _wrong_cursor(FOREIGN)
        return values

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self.key, signed, "sha256")[:MAC_BYTES]


ALTERED = (
    "this service gave out no such cursor, or it was altered; send the next_cursor of the previous "
    "page as it is"
)
FOREIGN = (
    "this cursor belongs to another list or to other filters; send it with the path and the "
    "filters of the page that it came from, or leave it out to begin with the first page"
)


def _wrong_cursor(detail: str) -> Unprocessable:
    return Unprocessable(detail, errors=[{"pointer": "/cursor", "detail": detail}])


def _stored(value: Any) -> Any:
    return (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value


def _value(column: Column, stored: Any) -> Any:
    return EPOCH + stored * MICROSECOND if isinstance(column.type, Instant) else stored


async def get_paging(
    request: Request, service: ServiceDep, limit: Limit = 50, cursor: Cursor = None
) -> Paging:
    """The query parameters that every list takes: ``limit`` and ``cursor``."""
    given = request.query_params.multi_items()
    filters = sorted((name, value) for name, value in given if name not in UNBOUND)
    bound = json.dumps([service.project, request.scope["path"], filters]).encode()
    binding = hashlib.sha256(bound).digest()[:BINDING_BYTES]
    return Paging(limit, cursor, service.cursor_key, binding)


PagingDep = Annotated[Paging, Depends(get_paging)]
