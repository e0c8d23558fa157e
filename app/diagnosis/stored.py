"""Whether the stored files that rows of the database name are there, as after a restore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select

from app.artifacts.storage import Storage
from app.db import Database
from app.db.tables import Checkpoint, Dataset, Job


@dataclass(frozen=True)
class MissingFolder:
    """A stored folder that a row names and that is not there whole."""

    path: str
    owner: str  # the id of the dataset, checkpoint or job
    remedy: str


def missing_folders(database: Database, storage: Storage) -> Iterator[MissingFolder]:
    """Every such folder of datasets, checkpoints and saved states, one request to the store each.

    A folder is whole that has its manifest and every file in it.
    """
    for path, owner, remedy in _named(database):
        names = storage.names(path)
        try:
            storage.check(path, names)
        except FileNotFoundError:
            names = []
        if not names:
            yield MissingFolder(path, owner, remedy)


def _named(database: Database) -> list[tuple[str, str, str]]:
    with database.read() as session:
        datasets = session.execute(select(Dataset.path, Dataset.id)).all()
        checkpoints = session.execute(select(Checkpoint.path, Checkpoint.id)).all()
        states = session.execute(select(Job.state, Job.id).where(Job.state.is_not(None))).all()
    send = "delete it and send its rows again"
    return [
        *((path, owner, send) for path, owner in datasets),
        *((path, owner, "delete it: its weights are lost") for path, owner in checkpoints),
        *((state["path"], owner, "nothing: it starts over") for state, owner in states),
    ]
