"""What a checkpoint's ``surgery.json`` records about its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.checkpoints.card import CheckpointForm
from surgery.data.presets.tasks import TASKS
from surgery.data.tokens.dataset import TaskData
from surgery.models.blocks import Unit
from surgery.schemas.data.dataset import HubDataset
from surgery.schemas.jobs.finetune import EpochReport, FinetuneSpec

PARTS = ("text", "text_pair", "choices", "tokens")  # the columns of a stored dataset that are read


@dataclass(frozen=True)
class CheckpointRecord:
    """What was trained, on which data, and the metrics it reached.

    ``inputs`` are the parts of a row that the model reads and ``columns`` those of the dataset that
    hold them, ``dataset`` says where the rows came from, and ``parent`` is the checkpoint whose
    weights the run began with. With several labels a row, ``thresholds`` says from which
    probability on a row has each label. ``baseline`` and ``baseline_loss`` are what a constant
    prediction reaches, and ``warnings`` those of the run up to this evaluation.
    """

    layers: Sequence[str]
    included: Sequence[str]
    problem: str
    labels: Sequence[str]
    metrics: Mapping[str, float | None]
    epoch: float
    step: int
    selection: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    inputs: Sequence[str] = ()
    columns: Mapping[str, str | list[str]] = field(default_factory=dict)
    max_length: int | None = None
    dataset: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    thresholds: Mapping[str, float] | None = None
    baseline: Mapping[str, float | None] = field(default_factory=dict)
    baseline_loss: float | None = None
    warnings: Sequence[Mapping[str, Any]] = ()


def record_of(
    spec: FinetuneSpec, data: TaskData, layers: Sequence[Unit], report: EpochReport
) -> CheckpointRecord:
    """The record of a run at one of its evaluations."""
    return CheckpointRecord(
        layers=[layer.name for layer in layers],
        included=list(spec.selection.include),
        problem=data.problem.value,
        labels=data.labels,
        metrics=report.metrics,
        epoch=report.epoch,
        step=report.step,
        selection=spec.selection.model_dump(mode="json", exclude_none=True),
        adapter=None if spec.adapter is None else spec.adapter.model_dump(mode="json"),
        inputs=[part for part in PARTS if part in data.train.column_names],
        columns=data.columns.model_dump(exclude_none=True, exclude={"label"}),
        max_length=spec.training.max_length,
        dataset=_dataset(spec.dataset),
        parent=spec.continue_from,
        thresholds=report.thresholds,
    )


def _dataset(reference: str | HubDataset) -> dict[str, Any]:
    """The dataset's name and, unless it is an upload, its place on the Hub."""
    if isinstance(reference, HubDataset):
        return {
            "name": reference.hub,
            "hub": reference.hub,
            "config": reference.config,
            "revision": reference.revision,
            "split": reference.validation,
        }
    task = TASKS.get(reference)
    if task is None:
        return {"name": reference}
    return {
        "name": reference,
        "hub": task.hub,
        "config": task.config,
        "revision": None,
        "split": task.validation,
    }


def checkpoint_form(spec: FinetuneSpec) -> CheckpointForm:
    """The form of a run's checkpoints: a delta of LoRA is written as an adapter for PEFT."""
    lora = spec.adapter is not None and spec.adapter.type == "lora"
    return "adapter" if lora and spec.checkpoints.form == "delta" else spec.checkpoints.form
