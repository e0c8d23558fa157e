"""The files of a dataset's splits in the mirrors.

They are ``datasets/<hub id>[/<config>]/<split>.jsonl``, one a split: or .csv, .tsv, these also as
.gz or .zst, or .parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgery.compressed import SUFFIXES
from surgery.dataset_spec import HubDataset
from surgery.errors import DatasetInvalid, Fault
from surgery.files import shown
from surgery.sources import Sources, path_in_mirror

_TEXT = ("jsonl", "csv", "tsv")
_ENDINGS = (
    *(f"{kind}{packed}" for packed in ("", *SUFFIXES) for kind in _TEXT), "parquet",
)  # fmt: skip
_SHOWN = 10  # names of a folder's files in a message


def mirrored_splits(reference: HubDataset, sources: Sources) -> dict[str, Path] | None:
    """The files called train and validation in the first mirror that has both.

    They keep their names, which tell the format, where they are links. Raises DatasetInvalid where
    two files of one mirror are the same split.
    """
    for mirror in sources.mirrors:
        files = {
            "train": _split_file(mirror, reference, reference.train),
            "validation": _split_file(mirror, reference, reference.validation),
        }
        found = {role: path for role, path in files.items() if path is not None}
        if len(found) == len(files):
            return found
    return None


def _split_file(mirror: Path, reference: HubDataset, split: str) -> Path | None:
    folder = _folder(reference)
    places = (path_in_mirror(mirror, *folder, f"{split}.{ending}") for ending in _ENDINGS)
    found = [path for path in places if path is not None and path.is_file()]
    if len(found) > 1:
        detail = (
            f"the mirror's {'/'.join(folder)} holds {_listed([path.name for path in found])}, and "
            f"each is the split {split!r}; leave one of them"
        )
        raise DatasetInvalid(detail, [Fault(detail, "/dataset", file=found[1].name)])
    return found[0] if found else None


def _folder(reference: HubDataset) -> tuple[str, ...]:
    config = (reference.config,) if reference.config else ()
    return ("datasets", *reference.hub.split("/"), *config)


def missing_from_mirror(reference: HubDataset, sources: Sources) -> str:
    """Which files would make the mirror hold the dataset, and what its folder holds instead."""
    folder = _folder(reference)
    wanted = [f"{'/'.join(folder)}/{s}.jsonl" for s in (reference.train, reference.validation)]
    advice = (
        f"put {' and '.join(wanted)} (or .csv, .tsv, these also as .gz or .zst, or .parquet) in "
        "the mirror directory (SURGEON_MIRROR_DIR)"
    )
    folders = (path_in_mirror(mirror, *folder) for mirror in sources.mirrors)
    held = [
        f"mirror {number} holds {_listed(sorted(path.name for path in found.iterdir()))} there"
        for number, found in enumerate(folders, 1)
        if found is not None and found.is_dir()
    ]
    return "; ".join([advice, *held])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(shown, names[:_SHOWN])) + more
