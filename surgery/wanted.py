"""What a request calls its dataset: a preset by its name, or a dataset of the Hub."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.dataset_spec import HubDataset
from surgery.errors import DatasetInvalid, DatasetNotFound
from surgery.files import shown
from surgery.formats import Format
from surgery.spec import nearest
from surgery.tasks import TASKS, Task, metrics_for
from surgery.terms import Problem

# Problems whose labels have names.
NAMED = {Problem.CLASSIFICATION, Problem.TOKEN_CLASSIFICATION}


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
            hub=task.hub, config=task.config, revision=revision, train=train,
            validation=task.validation, columns=task.columns, problem=task.problem,
        ),
        labels=task.labels or None, metrics=task.metrics, questions=task.questions,
        format=task.format,
    )  # fmt: skip


def referred(reference: HubDataset) -> Wanted:
    """A dataset of the Hub as a request describes it."""
    name = f"{reference.hub}/{reference.config}" if reference.config else reference.hub
    labels = tuple(reference.labels) if reference.labels else None
    known = labels is not None or reference.problem not in NAMED
    metrics = metrics_for(reference.problem, labels or ()) if known else ()
    return Wanted(id=name, reference=reference, labels=labels, metrics=metrics)
