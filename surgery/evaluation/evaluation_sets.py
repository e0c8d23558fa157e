"""The other presets that a fine-tuned model is measured on: found, and fitted to its labels.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from surgery.data.files.source import format_of
from surgery.data.ingest.table import SplitFile, Table
from surgery.data.presets.tasks import TASKS
from surgery.data.references import DatasetSource, resolve_evaluation
from surgery.errors import DatasetInvalid, Fault, SurgeryError
from surgery.io.sources import Sources
from surgery.schemas.enums import Problem
from surgery.schemas.finetune import EpochReport

_SHOWN = 5  # labels in a message


def find_evaluation_sets(
    names: Sequence[str],
    dataset: str,
    problem: Problem,
    labels: Sequence[str] | None,
    sources: Sources,
) -> list[DatasetSource]:
    """The measured splits of presets that a model trained on ``dataset`` can be measured on.

    ``problem`` and ``labels`` are the dataset's, None where only reading it tells them. Raises
    DatasetInvalid where a preset does not fit, DatasetNotFound and UpstreamUnavailable where it is
    not to be had; the fault points at its place in ``also_evaluate``.
    """
    found = []
    for place, name in enumerate(names):
        with _pointing(f"/also_evaluate/{place}"):
            if name == dataset:
                raise DatasetInvalid(f"{name} is the dataset itself, which is measured anyway")
            if name in names[:place]:
                raise DatasetInvalid(f"{name} is named twice; leave one out")
            source = resolve_evaluation(name, sources)
            check_fit(source, problem, labels)
            _check_labelled(source)
            found.append(source)
    return found


@contextmanager
def _pointing(pointer: str) -> Iterator[None]:
    """Whatever is wrong with a preset, the request's fault is to have named it there."""
    try:
        yield
    except SurgeryError as error:
        faults = error.faults or [Fault(error.detail)]
        error.faults = [replace(fault, pointer=pointer) for fault in faults]
        raise


def check_fit(source: DatasetSource, problem: Problem, labels: Sequence[str] | None) -> None:
    """Raise DatasetInvalid unless a model for this problem and these labels answers the preset."""
    if source.problem is not problem:
        raise DatasetInvalid(
            f"{source.id} is of problem {source.problem.value} and the dataset of {problem.value}; "
            "name presets of the same problem"
        )
    if problem is not Problem.CLASSIFICATION:
        return
    if labels is None:
        raise DatasetInvalid(
            f"the labels of the dataset are known only once it is read, and {source.id} is "
            "measured by their names; give dataset.labels"
        )
    output_order(source.id, source.problem, source.labels, labels)


def output_order(
    name: str, problem: Problem, own: Sequence[str] | None, labels: Sequence[str]
) -> list[int] | None:
    """Which output of a model trained on ``labels`` is each label of a preset, by their names.

    ``own`` are the labels of the preset ``name``. None where outputs are no labels. Raises
    DatasetInvalid where the names differ.
    """
    if problem is not Problem.CLASSIFICATION:
        return None
    named = own or ()
    if sorted(named) != sorted(labels):
        raise DatasetInvalid(
            f"the labels of {name} are {_listed(named)} and those of the dataset "
            f"{_listed(labels)}; name presets of the same labels, in any order"
        )
    return [list(labels).index(each) for each in named]


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return ", ".join(labels[:_SHOWN]) + more


def _check_labelled(source: DatasetSource) -> None:
    """Raise DatasetInvalid where the labels are hidden, as far as the first row tells."""
    if source.origin == "hub":
        hidden = TASKS[source.id].hidden
    else:
        path = source.files["validation"]
        table = Table((SplitFile(path, format_of(path.name), path.name),))
        hidden = str(table.first()[-1].get(str(source.reference.columns.label))).strip() == "-1"
    if hidden:
        reference = source.reference
        place = f"datasets/{reference.hub}/{reference.config}/{reference.validation}.jsonl"
        raise DatasetInvalid(
            f"the labels of {source.id} are hidden there (-1): put a copy that has them in the "
            f"mirror directory (SURGEON_MIRROR_DIR) as {place}"
        )


def named_metrics(measured: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Each metric under one name, as in ``glue/ax:matthews_correlation``."""
    return {
        f"{name}:{metric}": value
        for name, values in measured.items()
        for metric, value in values.items()
    }


def reported(entry: EpochReport) -> dict[str, float | None]:
    """All that an evaluation measured, under the names of a job's metrics."""
    told = {f"validation_{name}": value for name, value in entry.metrics.items()}
    told |= named_metrics(entry.also)
    if entry.ranking is not None:
        told["ranking_kendall_tau"] = entry.ranking.kendall_tau
    return told
