"""Find the further presets that a fine-tuned model is measured on, and match their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from surgery.data.files.source import format_of
from surgery.data.ingest.table import SplitFile, Table
from surgery.data.presets.tasks import TASKS
from surgery.data.references import DatasetSource, resolve_evaluation
from surgery.errors import DatasetInvalid, Fault, SurgeryError
from surgery.evaluation.learning import Baseline
from surgery.io.sources import Sources
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import EpochReport

_SHOWN = 5  # the most labels that a message lists


def find_evaluation_sets(
    names: Sequence[str],
    dataset: str,
    problem: Problem,
    labels: Sequence[str] | None,
    sources: Sources,
) -> list[DatasetSource]:
    """Find the presets of these ``names``, on which a model trained on ``dataset`` is measured.

    ``problem`` and ``labels`` are those of the dataset; labels are None if they are unknown until
    the dataset is read. Raises DatasetInvalid for a preset that does not fit, and DatasetNotFound
    or UpstreamUnavailable for one that cannot be fetched; the fault points at its position in
    ``also_evaluate``.
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
    """Point every fault of a preset at the place where the request names it."""
    try:
        yield
    except SurgeryError as error:
        faults = error.faults or [Fault(error.detail)]
        error.faults = [replace(fault, pointer=pointer) for fault in faults]
        raise


def check_fit(source: DatasetSource, problem: Problem, labels: Sequence[str] | None) -> None:
    """Raise DatasetInvalid unless a preset has this problem and these labels."""
    if source.problem is not problem:
        raise DatasetInvalid(
            f"{source.id} is of problem {source.problem.value} and the dataset of {problem.value}; "
            "name presets of the same problem"
        )
    if problem is not Problem.CLASSIFICATION:
        return
    if labels is None:
        raise DatasetInvalid(
            f"the labels of the dataset are unknown until it is read, and {source.id} is "
            "measured by their names; give dataset.labels"
        )
    output_order(source.id, source.problem, source.labels, labels)


def output_order(
    name: str, problem: Problem, own: Sequence[str] | None, labels: Sequence[str]
) -> list[int] | None:
    """The index of a model's output for each label of a preset, matched by the labels' names.

    The model is trained on ``labels``; ``own`` are the labels of the preset ``name``. None for
    problems without classes. Raises DatasetInvalid if the names differ.
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
    """Raise DatasetInvalid if the labels are hidden, as far as the first row shows."""
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
    """The metrics of all presets, under names such as ``glue/ax:matthews_correlation``."""
    return {
        f"{name}:{metric}": value
        for name, values in measured.items()
        for metric, value in values.items()
    }


def reported_metrics(entry: EpochReport, baseline: Baseline) -> dict[str, float | None]:
    """Everything that an evaluation measured, under the names that a job's metrics have.

    What a constant prediction reaches is beside it, for a line in a plot.
    """
    metrics = {f"validation_{name}": value for name, value in entry.metrics.items()}
    metrics |= named_metrics(entry.also)
    metrics |= {f"baseline_{name}": value for name, value in baseline.metrics.items()}
    metrics |= {f"baseline_{name}": value for name, value in named_metrics(baseline.also).items()}
    metrics["baseline_loss"] = baseline.loss
    if entry.ranking is not None:
        metrics["ranking_kendall_tau"] = entry.ranking.kendall_tau
    return metrics
