"""The models of the mirrors, to propose one for an id that names none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from surgery.errors import Fault, ModelNotFound, nearest
from surgery.io.sources import Sources

MOST_LISTED = 1000  # folders of a mirror that are looked at
MOST_NAMED = 5


def mirrored_models(sources: Sources) -> list[str]:
    """The ids of the models in the mirrors, in alphabetical order; the first thousand."""
    found = (name for mirror in sources.mirrors for name in _models_in(mirror / "models"))
    return sorted(set(islice(found, MOST_LISTED)))


def _models_in(folder: Path) -> Iterator[str]:
    """Folders with a config.json: those of models without an owner, and those within an owner's."""
    for first in _folders(folder):
        if (folder / first / "config.json").is_file():
            yield first
            continue
        for second in _folders(folder / first):
            if (folder / first / second / "config.json").is_file():
                yield f"{first}/{second}"


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def likely_models(model_id: str, known: Sequence[str]) -> list[str]:
    """The ids that were probably meant, best first.

    These are models of this name with an owner, else the nearest id or name, else those that
    contain it.
    """
    wanted = model_id.partition("@")[0].lower()
    bare = wanted.rpartition("/")[2]
    names = {each: each.lower().rpartition("/")[2] for each in known}
    same = [each for each, name in names.items() if name == bare]
    if same:
        return same
    near = nearest(wanted, [each.lower() for each in known])
    close = near or nearest(bare, list(names.values()))
    found = [each for each, name in names.items() if close in {each.lower(), name}]
    return found or [each for each in known if len(bare) > 2 and bare in each.lower()]


def with_models(error: ModelNotFound, model_id: str, sources: Sources) -> ModelNotFound:
    """An error that names no model, with those of the mirrors that may have been meant."""
    known = mirrored_models(sources)
    likely = likely_models(model_id, known)
    if not known:
        return error
    advice = f"did you mean {_listed(likely)}?" if likely else f"the mirror has {_listed(known)}"
    detail = f"{error.detail}; {advice}"
    return ModelNotFound(detail, [Fault(detail, suggestion=likely[0] if likely else None)])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more
