"""Keep the checkpoint of one evaluation of a run."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.checkpoint import write_checkpoint
from surgery.data import TaskData
from surgery.finetune_spec import FinetuneSpec
from surgery.loading import LoadedModel
from surgery.progress import Reporter
from surgery.record import kept_form, record_of
from surgery.results import EpochReport
from surgery.units import Unit


def keep_checkpoint(
    report: Reporter, loaded: LoadedModel, data: TaskData, spec: FinetuneSpec,
    layers: Sequence[Unit], trained: Sequence[str], entry: EpochReport, *, is_best: bool,
) -> None:  # fmt: skip
    """Write the checkpoint of ``entry`` and report it."""
    report.phase("save")
    folder = report.new_folder(f"checkpoint-{entry.step}")
    form = kept_form(spec)
    write_checkpoint(folder, loaded, trained, form, record_of(spec, data, layers, entry))
    told = {"epoch": entry.epoch, "step": entry.step, "form": form, "metrics": entry.metrics}
    report.checkpoint(folder, {**told, "is_best": is_best})
