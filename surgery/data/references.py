"""Resolve the dataset that a request names to files, a revision and a fingerprint.

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
from surgery.data.ingest.columns.infer import check_columns
from surgery.data.ingest.ingest import REPORT, ingest_tables
from surgery.data.ingest.table import SplitFile, Table
from surgery.data.presets.tasks import TASKS, Task, metrics_for
from surgery.data.rows import RowFormat
from surgery.data.splits import mirrored_splits, missing_from_mirror
from surgery.errors import DatasetInvalid, DatasetNotFound, Fault, nearest
from surgery.io.digests import file_digest, json_digest
from surgery.io.folders import first_wins, mark_used
from surgery.io.sources import Sources, recorded_revision
from surgery.schemas.data.dataset import Columns, DatasetReport, HubDataset
from surgery.schemas.enums import NAMED, Problem

# Part of every fingerprint, to be raised when the stored form of the same files changes.
_FORM = 2
_SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """A dataset that was asked for, and what is known about it before any file is read."""

    id: str
    reference: HubDataset
    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    format: RowFormat | None = None

    @property
    def problem(self) -> Problem:
        """What is to be predicted."""
        return self.reference.problem


def preset(name: str) -> DatasetDescription:
    """A preset by its name. Raises DatasetNotFound, or DatasetInvalid if it has no train split."""
    task = _task(name)
    if task.train_on:
        raise DatasetInvalid(
            f"{name} is for evaluation only: it has no train split. Name {task.train_on} as the "
            "dataset, which has the same labels, and this one in also_evaluate of a fine-tune"
        )
    return _task_description(task, task.train)


def evaluation_preset(name: str, revision: str | None = None) -> DatasetDescription:
    """A preset for evaluation only: its evaluation split is used in the place of train too.

    Its train split need not exist and is not read. Raises DatasetNotFound for an unknown preset.
    """
    task = _task(name)
    return _task_description(task, task.validation, revision)


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


def _task_description(task: Task, train: str, revision: str | None = None) -> DatasetDescription:
    return DatasetDescription(
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


def described_by(reference: HubDataset) -> DatasetDescription:
    """The dataset of the Hub that a request describes."""
    name = f"{reference.hub}/{reference.config}" if reference.config else reference.hub
    labels = tuple(reference.labels) if reference.labels else None
    if isinstance(reference.columns.label, list):  # each column is a label
        labels = tuple(reference.columns.label)
    known = labels is not None or reference.problem not in NAMED
    metrics = metrics_for(reference.problem, labels or ()) if known else ()
    return DatasetDescription(id=name, reference=reference, labels=labels, metrics=metrics)


@dataclass(frozen=True, kw_only=True)
class DatasetSource(DatasetDescription):
    """A resolved dataset: enough to load it later, also on another machine with the same mirrors.

    ``files`` holds the mirror's files and ``remote`` the Hub's, by train and validation. A count in
    ``rows`` is None if only reading the data tells it. ``labels`` and ``metrics`` are empty if only
    reading the data tells the classes; the metrics then are
    ``metrics_for(report.problem, report.labels)``.
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
    """Find a preset or a Hub dataset without loading it, on the Hub at ``revision`` if given.

    A mirror has the one revision that `hf download` recorded in it, or an unknown one; a reference
    with another revision is looked up on the Hub.
    Raises DatasetNotFound, DatasetInvalid (for columns that do not exist, or a preset without a
    train split) or UpstreamUnavailable.
    """
    description = preset(reference) if isinstance(reference, str) else described_by(reference)
    if revision is not None:
        pinned = description.reference.model_copy(update={"revision": revision})
        description = replace(description, reference=pinned)
    return _resolve(description, sources)


def resolve_evaluation(name: str, sources: Sources, revision: str | None = None) -> DatasetSource:
    """Find the evaluation split of a preset, also of one without a train split.

    The result has it as both train and validation. Raises as `resolve_dataset` does.
    """
    return _resolve(evaluation_preset(name, revision), sources)


def _resolve(description: DatasetDescription, sources: Sources) -> DatasetSource:
    files = mirrored_splits(description.reference, sources)
    asked = description.reference.revision
    if files is not None and (not asked or recorded_revision(files.values()) == asked):
        return _in_mirror(description, files)
    if sources.offline:
        raise DatasetNotFound(_offline(description, sources, files))
    return _on_hub(description, sources)


def materialise(source: DatasetSource, sources: Sources) -> tuple[Path, DatasetReport]:
    """The folder with the dataset's stored form (see ``ingest``), which is written on first use.

    It lies in the cache under the fingerprint. Two processes may do this at once: the second to
    finish uses the folder of the first.
    """
    folder = sources.datasets / source.fingerprint.removeprefix("sha256:")
    if (folder / REPORT).is_file():
        mark_used(folder)  # datasets are evicted by this time
    else:
        with first_wins(folder):
            write_dataset(source, sources, folder)
    text = (folder / REPORT).read_text(encoding="utf-8")
    return folder, DatasetReport.model_validate_json(text)


def _in_mirror(description: DatasetDescription, files: dict[str, Path]) -> DatasetSource:
    for role, path in files.items():
        table = Table((SplitFile(path, format_of(path.name), path.name),))
        name = f"{role} ({path.name})"
        if description.format is not None:
            _check_raw(description.format, table.first()[-1], name)
            continue
        _check_table(table, description.reference.columns, name)
    source = DatasetSource(**vars(description), origin="mirror", files=files)
    source = replace(source, revision=recorded_revision(files.values()))
    source = replace(source, fingerprint=_mirror_fingerprint(source))
    if not _keeps_count(description):
        return source
    return replace(source, rows={role: rows_in_file(path) for role, path in files.items()})


def _check_table(table: Table, columns: Columns, name: str) -> None:
    """Raise DatasetInvalid for a column that no row has; single rows may lack it."""
    head = table.head()
    try:
        check_columns(head.cells, columns, name, "/dataset/columns")
    except DatasetInvalid:
        if head.complete:
            raise
        check_columns(table.head(None).cells, columns, name, "/dataset/columns")


def _keeps_count(description: DatasetDescription) -> bool:
    return description.format is None or not description.format.expands


def _check_raw(form: RowFormat, row: Row, name: str) -> None:
    missing = [column for column in form.raw if column not in row]
    if missing:
        detail = (
            f"{name} has no column {missing[0]!r}, from which the preset builds its texts; put the "
            "benchmark's own rows there"
        )
        raise DatasetInvalid(detail, [Fault(detail, "/dataset", name, column=missing[0])])


def _on_hub(description: DatasetDescription, sources: Sources) -> DatasetSource:
    reference = description.reference
    found = describe(reference, sources)
    labels, metrics = description.labels, description.metrics
    if labels is None and found.labels and reference.problem in NAMED:
        labels = found.labels
        metrics = metrics_for(reference.problem, labels)
    source = DatasetSource(
        **vars(replace(description, labels=labels, metrics=metrics)),
        origin="hub",
        revision=found.revision,
        rows=found.rows if _keeps_count(description) else dict.fromkeys(_SPLITS),
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
    if source.reference.label_separator is not None:
        whole["label_separator"] = source.reference.label_separator
    if source.format is not None:
        whole["format"] = [source.format.name, source.format.version]
    return f"sha256:{json_digest(whole)}"


def rows_in_file(path: Path) -> int:
    """The number of rows in a mirror's file, counted again only when the file has changed."""
    state = path.stat()
    return _counted(path, format_of(path.name), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _counted(path: Path, kind: FileFormat, size: int, modified: int) -> int:  # noqa: ARG001  # the key
    return count_rows(path, kind)


def _offline(
    description: DatasetDescription, sources: Sources, files: dict[str, Path] | None
) -> str:
    reference = description.reference
    if reference.revision and files is not None:
        has = recorded_revision(files.values())
        return (
            f"{description.id} is asked for at revision {reference.revision!r}, but this service "
            "is offline: its mirror "
        ) + (
            f"has revision {has!r} only; name that, or leave revision out"
            if has
            else "holds no revisions, so leave revision out"
        )
    return (
        f"{description.id} is not in the mirror and this service is offline; "
        + missing_from_mirror(reference, sources)
    )


def write_dataset(source: DatasetSource, sources: Sources, folder: Path) -> None:
    """Read a resolved dataset and write its stored form (see ``ingest``) into a new folder.

    Raises DatasetInvalid if it has faults or changed since it was resolved.
    """
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


def _part(path: Path) -> SplitFile:
    # On the Hub, JSON Lines often have the suffix .json.
    suffix = PurePath(plain_name(path.name)).suffix
    kind: FileFormat = "jsonl" if suffix == ".json" else format_of(path.name)
    return SplitFile(path, kind, path.name)


def _ingest(
    source: DatasetSource, parts: Mapping[str, tuple[SplitFile, ...]], folder: Path
) -> None:
    form = source.format
    ingest_tables(
        Table(parts["train"], format=form),
        Table(parts["validation"], format=form),
        folder,
        columns=form.columns if form else source.reference.columns,
        problem=source.problem,
        labels=source.labels,
        label_separator=source.reference.label_separator,
        questions=dict(source.questions),
    )
