"""What a reader is told whose checkpoint's files vanish under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.deps import Service
from app.errors import Conflict, NotFound
from app.tables import Checkpoint
from surgery.errors import UnsafeWeights


@contextmanager
def reading(service: Service, row: Checkpoint) -> Iterator[None]:
    """Raises what ``missing`` says where a file is not there."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(service, row) from error


def missing(service: Service, row: Checkpoint) -> Exception:
    """Why the files that a row names, as it was read a moment ago, are not there."""
    with service.database.read() as session:
        now = session.get(Checkpoint, row.id)
    if now is None:
        return NotFound(f"checkpoint {row.id} was deleted meanwhile")
    if now.path != row.path:
        return Conflict(
            f"another attempt of {row.job_id} replaced checkpoint {row.id} meanwhile; ask again"
        )
    return UnsafeWeights(f"the stored files of checkpoint {row.id} are damaged")
