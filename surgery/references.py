"""Resolve what a request calls its dataset to files, a revision and a fingerprint, and load it.

A preset or a Hub id is looked up in the mirrors first, then on the Hub. In a mirror the files are
``datasets/<hub id>[/<config>]/<split>.jsonl`` (or .csv, .tsv, .parquet), one a split.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from surgery.columns import check_columns
from surgery.dataset_spec import Columns, HubDataset
from surgery.errors import DatasetInvalid, DatasetNotFound, Fault
from surgery.files import FileFormat, Row, count_rows, format_of
from surgery.formats import Format
from surgery.hub_data import describe, download
from surgery.ingest import REPORT, ingest_tables
from surgery.schema import DatasetReport
from surgery.sources import Sources, file_digest, mirror_path
from surgery.survey import Part, Table
from surgery.tasks import metrics_for
from surgery.terms import Problem
from surgery.wanted import NAMED, Wanted, preset, referred

# Part of every fingerprint: raise it when the stored form of the same files changes.
_FORM = 1
_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class DatasetSource:
    """A dataset found: enough to load it later, on another machine with the same mirrors.

    ``rows`` are None where only reading the data tells them.
    ``files`` holds the mirror's files and ``remote`` the Hub's, by train and validation.
    ``labels`` and ``metrics`` are empty where only reading the data tells the classes; take
    ``metrics_for(report.problem, report.labels)`` then.
    """

    id: str
    origin: Literal["mirror", "hub"]
    revision: str | None
    fingerprint: str
    rows: dict[str, int | None]
    files: dict[str, Path]
    hub: str
    config: str | None
    train: str
    validation: str
    columns: Columns
    problem: Problem
    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    format: Format | None = None
    remote: dict[str, tuple[str, ...]] = field(default_factory=dict)


def resolve_dataset(reference: str | HubDataset, sources: Sources) -> DatasetSource:
    """Find a preset or a Hub dataset, without loading it.

    A reference with a revision goes to the Hub at once: a mirror holds no revisions. Raises
    DatasetNotFound, DatasetInvalid (columns that do not exist, a preset that is for evaluation
    only) or UpstreamUnavailable.
    """
    wanted = preset(reference) if isinstance(reference, str) else referred(reference)
    found = None if wanted.reference.revision else _in_mirror(wanted, sources)
    if found is not None:
        return found
    if sources.offline:
        raise DatasetNotFound(_offline(wanted))
    return _on_hub(wanted, sources)


def materialise(source: DatasetSource, sources: Sources) -> tuple[Path, DatasetReport]:
    """The folder with the dataset's stored form (see ``ingest``), written on first use.

    It lies in the cache under the fingerprint. Two processes may do this at once: the second
    to finish takes the first one's folder.
    """
    folder = sources.cache / "datasets" / source.fingerprint.removeprefix("sha256:")
    if not (folder / REPORT).is_file():
        try:
            _load(source, sources, folder)
        except OSError:
            if not (folder / REPORT).is_file():
                raise
    text = (folder / REPORT).read_text(encoding="utf-8")
    return folder, DatasetReport.model_validate_json(text)


def _places(reference: HubDataset, split: str) -> list[tuple[str, ...]]:
    folder = ("datasets", *reference.hub.split("/"))
    folder += (reference.config,) if reference.config else ()
    order = ("jsonl", *(kind for kind in get_args(FileFormat) if kind != "jsonl"))
    return [(*folder, f"{split}.{kind}") for kind in order]


def _in_mirror(wanted: Wanted, sources: Sources) -> DatasetSource | None:
    reference = wanted.reference
    files: dict[str, Path] = {}
    for role, split in zip(_SPLITS, (reference.train, reference.validation), strict=True):
        found = (mirror_path(sources, *place) for place in _places(reference, split))
        path = next((path for path in found if path is not None and path.is_file()), None)
        if path is None:
            return None
        files[role] = path
    for role, path in files.items():
        table = Table((Part(path, format_of(path.name), path.name),))
        name, row = f"{role} ({path.name})", table.first()[-1]
        if wanted.format is not None:
            _check_raw(wanted.format, row, name)
            continue
        check_columns(row, reference.columns, name, "/dataset/columns")
    source = _source(wanted, "mirror", files=files)
    source = replace(source, fingerprint=_mirror_fingerprint(source))
    if not _keeps_count(wanted):
        return source
    return replace(source, rows={role: _count(path) for role, path in files.items()})


def _keeps_count(wanted: Wanted) -> bool:
    return wanted.format is None or not wanted.format.expands


def _check_raw(form: Format, row: Row, name: str) -> None:
    missing = [column for column in form.raw if column not in row]
    if missing:
        detail = (
            f"{name} has no column {missing[0]!r}, of which the preset builds its texts; put the "
            "benchmark's own rows there"
        )
        raise DatasetInvalid(detail, [Fault(detail, "/dataset", name, column=missing[0])])


def _on_hub(wanted: Wanted, sources: Sources) -> DatasetSource:
    reference = wanted.reference
    found = describe(reference, sources)
    labels, metrics = wanted.labels, wanted.metrics
    if labels is None and found.labels and reference.problem in NAMED:
        labels = found.labels
        metrics = metrics_for(reference.problem, labels)
    source = replace(
        _source(replace(wanted, labels=labels, metrics=metrics), "hub"),
        revision=found.revision,
        rows=found.rows if _keeps_count(wanted) else dict.fromkeys(_SPLITS),
        remote=found.files,
    )
    content = {"hub": source.hub, "revision": found.revision, "files": found.files}
    return replace(source, fingerprint=_fingerprint(source, content))


def _source(
    wanted: Wanted, origin: Literal["mirror", "hub"], files: dict[str, Path] | None = None
) -> DatasetSource:
    reference = wanted.reference
    return DatasetSource(
        id=wanted.id,
        origin=origin,
        revision=None,
        fingerprint="",
        rows=dict.fromkeys(_SPLITS),
        files=files or {},
        hub=reference.hub,
        config=reference.config,
        train=reference.train,
        validation=reference.validation,
        columns=reference.columns,
        problem=reference.problem,
        labels=wanted.labels,
        metrics=wanted.metrics,
        questions=wanted.questions,
        format=wanted.format,
    )


def _mirror_fingerprint(source: DatasetSource) -> str:
    digests = {role: file_digest(path) for role, path in source.files.items()}
    formats = {role: format_of(path.name) for role, path in source.files.items()}
    return _fingerprint(source, {"files": digests, "formats": formats})


def _fingerprint(source: DatasetSource, content: Mapping[str, object]) -> str:
    whole = {
        **content,
        "form": _FORM,
        "columns": source.columns.model_dump(),
        "problem": source.problem,
        "labels": source.labels,
        "questions": source.questions,
    }
    if source.format is not None:
        whole["format"] = [source.format.name, source.format.version]
    canonical = json.dumps(whole, sort_keys=True).encode()
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def _count(path: Path) -> int:
    state = path.stat()
    return _counted(os.path.realpath(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _counted(real: str, size: int, modified: int) -> int:  # noqa: ARG001  # part of the cache's key
    return count_rows(Path(real), format_of(real))


def _offline(wanted: Wanted) -> str:
    reference = wanted.reference
    if reference.revision:
        return (
            f"{wanted.id} is asked for at revision {reference.revision!r}, and this service is "
            "offline: its mirror holds no revisions, so leave revision out"
        )
    places = ["/".join(_places(reference, s)[0]) for s in (reference.train, reference.validation)]
    return (
        f"{wanted.id} is not in the mirror and this service is offline; put "
        f"{' and '.join(places)} in the mirror directory (SURGEON_MIRROR_DIR)"
    )


def _load(source: DatasetSource, sources: Sources, folder: Path) -> None:
    if source.origin == "mirror":
        if _mirror_fingerprint(source) != source.fingerprint:
            raise DatasetInvalid(
                f"the mirror's files of {source.id} changed since it was resolved; submit again"
            )
        _ingest(source, {role: (_part(path),) for role, path in source.files.items()}, folder)
        return
    if sources.offline:
        raise DatasetNotFound(f"{source.id} is on the Hub and this service is offline")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as scratch:
        fetched = {
            role: download(source.hub, str(source.revision), names, Path(scratch), sources)
            for role, names in source.remote.items()
        }
        _ingest(source, {role: tuple(map(_part, paths)) for role, paths in fetched.items()}, folder)


def _part(path: Path) -> Part:
    # On the Hub, JSON Lines often go by the name of .json.
    kind: FileFormat = "jsonl" if path.suffix == ".json" else format_of(path.name)
    return Part(path, kind, path.name)


def _ingest(source: DatasetSource, parts: Mapping[str, tuple[Part, ...]], folder: Path) -> None:
    form = source.format
    ingest_tables(
        Table(parts["train"], format=form),
        Table(parts["validation"], format=form),
        folder,
        columns=form.columns if form else source.columns,
        problem=source.problem,
        labels=source.labels,
        questions=dict(source.questions),
    )
