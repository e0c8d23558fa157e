"""From what a request calls its dataset to files, a revision and a fingerprint.

A preset or a Hub id is looked up in the mirrors first, then on the Hub.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Literal

from surgery.data.files.compressed import plain_name
from surgery.data.files.read import count_rows
from surgery.data.files.source import FileFormat, Row, format_of, shown
from surgery.data.hub import describe, download
from surgery.data.ingest.columns import check_columns
from surgery.data.ingest.ingest import REPORT, ingest_tables
from surgery.data.ingest.table import Part, Table
from surgery.data.presets.tasks import TASKS, Task, metrics_for
from surgery.data.rows import Format
from surgery.data.splits import mirrored_splits, missing_from_mirror
from surgery.errors import DatasetInvalid, DatasetNotFound, Fault, nearest
from surgery.io.digests import file_digest, json_digest
from surgery.io.folders import first_wins
from surgery.io.sources import Sources
from surgery.schemas.dataset import Columns, DatasetReport, HubDataset
from surgery.schemas.enums import Problem

# Problems whose labels have names.
NAMED = {Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION}

# Part of every fingerprint: raise it when the stored form of the same files changes.
_FORM = 2
_SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A dataset asked for: where it lies, and what is known of it before any file is read."""

    id: str
    reference: HubDataset
    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    format: Format | None = None

    @property
    def problem(self) -> Problem:
        """What is to be predicted."""
        return self.reference.problem


def preset(name: str) -> Wanted:
    """A preset by its name; DatasetNotFound, or DatasetInvalid where it is for evaluation only."""
    task = _task(name)
    if task.train_on:
        raise DatasetInvalid(
            f"{name} is for evaluation only: it has no train split. Name {task.train_on} as the "
            "dataset, which has the same labels, and this one in also_evaluate of a fine-tune"
        )
    return _wanted(task, task.train)


def measured_preset(name: str, revision: str | None = None) -> Wanted:
    """A preset to measure on alone: the measured split stands in the place of train as well.

    No row of train has to be there, and none is read. DatasetNotFound where there is no such
    preset.
    """
    task = _task(name)
    return _wanted(task, task.validation, revision)


def _task(name: str) -> Task:
    task = TASKS.get(name)
    if task is None:
        near = nearest(name, list(TASKS))
        hint = f"; did you mean {near!r}?" if near else ";"
        raise DatasetNotFound(
            f"no dataset is called {shown(name)!r}{hint} GET /v1/tasks lists the presets; "
            'a dataset of the Hub is written {"hub": "owner/name", "columns": …}, and a file is '
            "uploaded first, with POST /v1/datasets"
        )
    return task


def _wanted(task: Task, train: str, revision: str | None = None) -> Wanted:
    return Wanted(
        id=task.name,
        reference=HubDataset(
            hub=task.hub,
            config=task.config,
            revision=revision,
            train=train,
            validation=task.validation,
            columns=task.columns,
            problem=task.problem,
        ),
        labels=task.labels or None,
        metrics=task.metrics,
        questions=task.questions,
        format=task.format,
    )


def referred(reference: HubDataset) -> Wanted:
    """A dataset of the Hub as a request describes it."""
    name = f"{reference.hub}/{reference.config}" if reference.config else reference.hub
    labels = tuple(reference.labels) if reference.labels else None
    known = labels is not None or reference.problem not in NAMED
    metrics = metrics_for(reference.problem, labels or ()) if known else ()
    return Wanted(id=name, reference=reference, labels=labels, metrics=metrics)


@dataclass(frozen=True, kw_only=True)
class DatasetSource(Wanted):
    """A dataset found: enough to load it later, on another machine with the same mirrors.

    ``rows`` are None where only reading the data tells them.
    ``files`` holds the mirror's files and ``remote`` the Hub's, by train and validation.
    ``labels`` and ``metrics`` are empty where only reading the data tells the classes; take
    ``metrics_for(report.problem, report.labels)`` then.
    """

    origin: Literal["mirror", "hub"]
    revision: str | None = None
    fingerprint: str = ""
    rows: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(_SPLITS))
    files: dict[str, Path] = field(default_factory=dict)
    remote: dict[str, tuple[str, ...]] = field(default_factory=dict)


def resolve_dataset(
    reference: str | HubDataset, sources: Sources, revision: str | None = None
) -> DatasetSource:
    """Find a preset or a Hub dataset, without loading it; of the Hub, at this revision if any.

    A reference with a revision goes to the Hub at once: a mirror holds no revisions. Raises
    DatasetNotFound, DatasetInvalid (columns that do not exist, a preset that is for evaluation
    only) or UpstreamUnavailable.
    """
    wanted = preset(reference) if isinstance(reference, str) else referred(reference)
    if revision is not None:
        pinned = wanted.reference.model_copy(update={"revision": revision})
        wanted = replace(wanted, reference=pinned)
    return _resolve(wanted, sources)


def resolve_measured(name: str, sources: Sources, revision: str | None = None) -> DatasetSource:
    """Find the measured split of a preset, for evaluation only ones as well.

    Both splits of what is found are that one. Raises as `resolve_dataset` does.
    """
    return _resolve(measured_preset(name, revision), sources)


def _resolve(wanted: Wanted, sources: Sources) -> DatasetSource:
    found = None if wanted.reference.revision else _in_mirror(wanted, sources)
    if found is not None:
        return found
    if sources.offline:
        raise DatasetNotFound(_offline(wanted, sources))
    return _on_hub(wanted, sources)


def materialise(source: DatasetSource, sources: Sources) -> tuple[Path, DatasetReport]:
    """The folder with the dataset's stored form (see ``ingest``), written on first use.

    It lies in the cache under the fingerprint. Two processes may do this at once: the second
    to finish takes the first one's folder.
    """
    folder = sources.cache / "datasets" / source.fingerprint.removeprefix("sha256:")
    if not (folder / REPORT).is_file():
        with first_wins(folder):
            _load(source, sources, folder)
    text = (folder / REPORT).read_text(encoding="utf-8")
    return folder, DatasetReport.model_validate_json(text)


def _in_mirror(wanted: Wanted, sources: Sources) -> DatasetSource | None:
    files = mirrored_splits(wanted.reference, sources)
    if files is None:
        return None
    for role, path in files.items():
        table = Table((Part(path, format_of(path.name), path.name),))
        name = f"{role} ({path.name})"
        if wanted.format is not None:
            _check_raw(wanted.format, table.first()[-1], name)
            continue
        _check_table(table, wanted.reference.columns, name)
    source = DatasetSource(**vars(wanted), origin="mirror", files=files)
    source = replace(source, fingerprint=_mirror_fingerprint(source))
    if not _keeps_count(wanted):
        return source
    return replace(source, rows={role: _count(path) for role, path in files.items()})


def _check_table(table: Table, columns: Columns, name: str) -> None:
    """Raise DatasetInvalid for a column that no row has; a row may leave out some."""
    head = table.head()
    try:
        check_columns(head.cells, columns, name, "/dataset/columns")
    except DatasetInvalid:
        if head.complete:
            raise
        check_columns(table.head(None).cells, columns, name, "/dataset/columns")


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
    source = DatasetSource(
        **vars(replace(wanted, labels=labels, metrics=metrics)),
        origin="hub",
        revision=found.revision,
        rows=found.rows if _keeps_count(wanted) else dict.fromkeys(_SPLITS),
        remote=found.files,
    )
    content = {"hub": reference.hub, "revision": found.revision, "files": found.files}
    return replace(source, fingerprint=_fingerprint(source, content))


def _mirror_fingerprint(source: DatasetSource) -> str:
    digests = {role: file_digest(path) for role, path in source.files.items()}
    formats = {role: format_of(path.name) for role, path in source.files.items()}
    return _fingerprint(source, {"files": digests, "formats": formats})


def _fingerprint(source: DatasetSource, content: Mapping[str, object]) -> str:
    whole = {
        **content,
        "form": _FORM,
        "columns": source.reference.columns.model_dump(),
        "problem": source.problem,
        "labels": source.labels,
        "questions": source.questions,
    }
    if source.format is not None:
        whole["format"] = [source.format.name, source.format.version]
    return f"sha256:{json_digest(whole)}"


def _count(path: Path) -> int:
    state = path.stat()
    return _counted(path, format_of(path.name), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _counted(path: Path, kind: FileFormat, size: int, modified: int) -> int:  # noqa: ARG001  # the key
    return count_rows(path, kind)


def _offline(wanted: Wanted, sources: Sources) -> str:
    reference = wanted.reference
    if reference.revision:
        return (
            f"{wanted.id} is asked for at revision {reference.revision!r}, and this service is "
            "offline: its mirror holds no revisions, so leave revision out"
        )
    return f"{wanted.id} is not in the mirror and this service is offline; " + missing_from_mirror(
        reference, sources
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
            role: download(
                source.reference.hub, str(source.revision), names, Path(scratch), sources
            )
            for role, names in source.remote.items()
        }
        _ingest(source, {role: tuple(map(_part, paths)) for role, paths in fetched.items()}, folder)


def _part(path: Path) -> Part:
    # On the Hub, JSON Lines often go by the name of .json.
    suffix = PurePath(plain_name(path.name)).suffix
    kind: FileFormat = "jsonl" if suffix == ".json" else format_of(path.name)
    return Part(path, kind, path.name)


def _ingest(source: DatasetSource, parts: Mapping[str, tuple[Part, ...]], folder: Path) -> None:
    form = source.format
    ingest_tables(
        Table(parts["train"], format=form),
        Table(parts["validation"], format=form),
        folder,
        columns=form.columns if form else source.reference.columns,
        problem=source.problem,
        labels=source.labels,
        questions=dict(source.questions),
    )
