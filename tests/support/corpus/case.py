"""One model of the corpus: a change to a whole model's folder, and what it may come to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.support.models.hostile_folders import Canaries

Json = dict[str, Any]


class Comes(StrEnum):
    """What a case may come to."""

    REFUSED = "refused"  # never runs: a named code says that it is the model's fault
    RUNS = "runs"  # what is wrong with it is left out without a word
    EITHER = "either"  # runs, or has a named code


@dataclass(frozen=True)
class Case:
    """Changes a copy of the tiny encoder."""

    change: Callable[[Path, Canaries], object]
    comes: Comes


def refused(change: Callable[[Path], object]) -> Case:
    return Case(lambda folder, _: change(folder), Comes.REFUSED)


def runs(change: Callable[[Path], object]) -> Case:
    return Case(lambda folder, _: change(folder), Comes.RUNS)


def either(change: Callable[[Path], object]) -> Case:
    return Case(lambda folder, _: change(folder), Comes.EITHER)


def setting(name: str, **keys: Any) -> Callable[[Path], object]:
    """Keys of one of the model's JSON files, which need not be there."""

    def change(folder: Path) -> None:
        path = folder / name
        document = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(document | keys))

    return change


def writing(name: str, content: bytes) -> Callable[[Path], object]:
    """A file of the model with other bytes."""
    return lambda folder: (folder / name).write_bytes(content)


def both(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    """Several changes, one after the other."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change
