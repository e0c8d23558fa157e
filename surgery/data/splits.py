"""Find out which files of a dataset are its splits, on the Hub and in the mirrors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.data.files.compressed import SUFFIXES, plain_name
from surgery.data.files.source import shown
from surgery.errors import DatasetInvalid, DatasetNotFound, Fault, nearest
from surgery.io.sources import Sources, path_in_mirror
from surgery.schemas.data.dataset import HubDataset

# In order of preference: repositories often hold copies of a split in several formats.
_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
_ALIASES = {"validation": ("valid", "val", "dev"), "test": ("eval",)}
_PART = re.compile(r"[0-9a-f]{8,}|\d+")  # the number or hash of a part in its file name

_TEXT = ("jsonl", "csv", "tsv")
_ENDINGS = [f"{kind}{packed}" for packed in ("", *SUFFIXES) for kind in _TEXT] + ["parquet"]
_SHOWN = 10  # file names of a folder that a message lists


def choose_config(reference: HubDataset, configs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The config in the dataset card that a reference means; None if the card lists no configs.

    Raises DatasetNotFound if there is no such config, or if several may be meant.
    """
    named = {str(entry.get("config_name", "default")): entry for entry in configs}
    if not named:
        return None
    if reference.config in named:
        return named[reference.config]
    known = ", ".join(shown(name) for name in list(named)[:20])
    if reference.config is not None:
        near = nearest(reference.config, list(named))
        hint = f" (did you mean {shown(near)!r}?)" if near else ""
        raise DatasetNotFound(
            f"{reference.hub} has no config {reference.config!r}{hint}. It has: {known}",
            [Fault("no such config", "/dataset/config")],
        )
    default = [name for name, entry in named.items() if entry.get("default")] or ["default"]
    if default[0] in named or len(named) == 1:
        return named.get(default[0]) or next(iter(named.values()))
    raise DatasetNotFound(
        f"{reference.hub} has several configs; name one in dataset.config: {known}",
        [Fault("config is needed", "/dataset/config")],
    )


def split_files(
    reference: HubDataset, split: str, config: dict[str, Any] | None, names: list[str]
) -> tuple[str, ...]:
    """The files of a split, all of one format, in order of their names.

    Raises DatasetNotFound if there are none, and DatasetInvalid if two may be meant.
    """
    patterns = [] if config is None else _patterns(config.get("data_files"), split)
    if patterns:
        found = [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
    else:
        folder = (config or {}).get("data_dir") or reference.config
        found = _by_convention(split, str(folder) if folder else None, names)
    found = [name for name in found if ".." not in PurePosixPath(name).parts and name[0] != "/"]
    for suffix in _SUFFIXES:
        chosen = sorted(name for name in found if _stem(name).endswith(suffix))
        if chosen:
            _refuse_rivals(reference, split, chosen, named=bool(patterns))
            return tuple(chosen)
    raise DatasetNotFound(
        f"{reference.hub} has no csv, tsv, jsonl or parquet file of the split {split!r}; "
        "name its splits in dataset.train and dataset.validation, or upload the files",
        [Fault("no such split", "/dataset")],
    )


def _stem(name: str) -> str:
    """A file name without the suffix of a compression, which text files may have."""
    plain = plain_name(name)
    return name if plain.endswith(".parquet") else plain


def _refuse_rivals(reference: HubDataset, split: str, chosen: list[str], *, named: bool) -> None:
    """Raise DatasetInvalid if two files may each be the whole split, and not parts of it.

    Parts differ in a number or hash, lie in a folder named after the split, or are ``named`` by
    the dataset card. A file in two compressions does not count as two parts.
    """
    seen: dict[str, str] = {}
    for name in chosen:
        rival = seen.setdefault(_stem(name), name)
        if not named and _series(name, split) != _series(chosen[0], split):
            rival = chosen[0]
        if rival != name:
            raise DatasetInvalid(
                f"{reference.hub} has {shown(rival)} and {shown(name)}, and either may be its "
                f"split {split!r}; upload the one you mean",
                [Fault("two files may be the split", "/dataset")],
            )


def _series(name: str, split: str) -> str:
    """What the names of the parts of one split have in common."""
    place, _, file = _stem(name).rpartition("/")
    if place.rpartition("/")[2] == split:
        return place
    return f"{place}/{_PART.sub('#', file)}"


def _patterns(data_files: object, split: str) -> list[str]:
    """The card's file patterns for a split: a string, a mapping, or a list of split and path."""
    if isinstance(data_files, str):
        return [data_files] if split == "train" else []
    if isinstance(data_files, Mapping):
        return _strings(data_files.get(split))
    if not isinstance(data_files, list):
        return []
    entries = [entry for entry in data_files if isinstance(entry, Mapping)]
    paths = [_strings(entry.get("path")) for entry in entries if entry.get("split") == split]
    return [path for found in paths for path in found]


def _by_convention(split: str, folder: str | None, names: list[str]) -> list[str]:
    """Files named after the split, such as `data/train-00000-of-00001.parquet` or `dev.jsonl`."""
    places = {f"{folder}/", f"{folder}/{split}/", f"data/{folder}/"} if folder else {"", "data/"}
    places |= {f"{place}{split}/" for place in places}
    words = "|".join(re.escape(word) for word in (split, *_ALIASES.get(split, ())))
    called = re.compile(rf"({words})([-_.].*)?", re.IGNORECASE)
    found = []
    for name in names:
        place, _, file = name.rpartition("/")
        place = f"{place}/" if place else ""
        inside = place.endswith(f"{split}/")
        if place in places and (inside or called.fullmatch(file)):
            found.append(name)
    return found


def _strings(value: object) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, str)]


def mirrored_splits(reference: HubDataset, sources: Sources) -> dict[str, Path] | None:
    """The train and validation file in the first mirror that has both.

    Links are not resolved, since a file's name tells its format. Raises DatasetInvalid if a mirror
    has two files for one split.
    """
    for mirror in sources.mirrors:
        files = {
            "train": _split_file(mirror, reference, reference.train),
            "validation": _split_file(mirror, reference, reference.validation),
        }
        present = {role: path for role, path in files.items() if path is not None}
        if len(present) == len(files):
            return present
    return None


def _split_file(mirror: Path, reference: HubDataset, split: str) -> Path | None:
    folder = _folder(reference)
    places = (path_in_mirror(mirror, *folder, f"{split}.{ending}") for ending in _ENDINGS)
    found = [path for path in places if path is not None and path.is_file()]
    if len(found) > 1:
        detail = (
            f"the mirror's {'/'.join(folder)} holds {_listed([path.name for path in found])}, and "
            f"each is the split {split!r}; leave only one of them there"
        )
        raise DatasetInvalid(detail, [Fault(detail, "/dataset", file=found[1].name)])
    return found[0] if found else None


def _folder(reference: HubDataset) -> tuple[str, ...]:
    config = (reference.config,) if reference.config else ()
    return ("datasets", *reference.hub.split("/"), *config)


def missing_from_mirror(reference: HubDataset, sources: Sources) -> str:
    """A message that says which files a mirror needs for the dataset, and what it has instead."""
    folder = _folder(reference)
    needed = [f"{'/'.join(folder)}/{s}.jsonl" for s in (reference.train, reference.validation)]
    advice = (
        f"put {' and '.join(needed)} (or .csv or .tsv, each also as .gz or .zst, or .parquet) in "
        "the mirror directory (SURGEON_MIRROR_DIR)"
    )
    folders = (path_in_mirror(mirror, *folder) for mirror in sources.mirrors)
    contents = [
        f"mirror {number} holds {_listed(sorted(path.name for path in there.iterdir()))} there"
        for number, there in enumerate(folders, 1)
        if there is not None and there.is_dir()
    ]
    return "; ".join([advice, *contents])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(shown, names[:_SHOWN])) + more
