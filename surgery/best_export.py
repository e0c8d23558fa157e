"""Add the ONNX form of a run's best checkpoint to it, once the run is over."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.card import documents
from surgery.checkpoint import load, read_record
from surgery.data import TaskData, choose_rows
from surgery.encoding import encode
from surgery.folder import MANIFEST, complete_folder
from surgery.loading import LoadedModel
from surgery.onnx_export import ONNX_FILE, export_onnx, require_packages
from surgery.onnx_report import OnnxReport
from surgery.progress import Reporter

ROWS = 64  # validation rows among which those of the check are chosen


class BestExport:
    """A run's reporter that keeps a copy of the best checkpoint's files until the end.

    Made before training, it exports the untrained model, so that a model that cannot be exported
    fails then. ``earlier`` is the best checkpoint and its record of an attempt that this run
    resumes. Raises ExportFailed.
    """

    def __init__(
        self, loaded: LoadedModel, data: TaskData, max_length: int, report: Reporter,
        earlier: tuple[Path, Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        require_packages()
        self._report, self._loaded, self._best = report, loaded, earlier
        chosen = choose_rows(len(data.validation), ROWS, seed=0)
        self._rows = encode(data.validation, loaded.tokenizer, max_length, chosen)
        report.phase("export")
        trial = report.new_folder("onnx-trial")
        trial.mkdir()
        try:
            export_onnx(copy.deepcopy(loaded.model).cpu().eval(), self._rows, trial / ONNX_FILE)
        finally:
            shutil.rmtree(trial)

    def checkpoint(self, directory: Path, record: Mapping[str, Any]) -> None:
        """Keep the best one's files under another name, then report it."""
        if record["is_best"]:
            kept = self._report.new_folder(f"best-{record['step']}")
            _link(directory, kept)
            if self._best is not None and self._best[0].parent == kept.parent:
                shutil.rmtree(self._best[0])
            self._best = kept, record
        self._report.checkpoint(directory, record)

    def finish(self) -> OnnxReport:
        """Export the best checkpoint and report it again, with the file in it."""
        assert self._best is not None, "a run that is over has evaluated"
        folder, record = self._best
        self._report.phase("export")
        began = time.perf_counter()
        target = self._report.new_folder(f"checkpoint-{record['step']}-onnx")
        with complete_folder(target) as building:
            _link(folder, building)
            (building / MANIFEST).unlink()
            model = load(self._loaded.snapshot, folder).cpu()
            report = export_onnx(model, self._rows, building / ONNX_FILE)
            report.seconds = round(time.perf_counter() - began, 3)
            entries = {**read_record(folder), "onnx": report.model_dump(mode="json")}
            for name, text in documents(entries).items():
                (building / name).unlink()  # a link: the other folder's file must stay as it is
                (building / name).write_text(text)
        self._report.checkpoint(target, record)
        return report

    # The rest is the reporter's own.

    def phase(self, name: str) -> None:
        """Handed on."""
        self._report.phase(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Handed on."""
        self._report.step(done, total, unit)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Handed on."""
        self._report.metric(step, epoch, values)

    def state(self, directory: Path, step: int) -> None:
        """Handed on."""
        self._report.state(directory, step)

    def new_folder(self, name: str) -> Path:
        """Handed on."""
        return self._report.new_folder(name)


def _link(source: Path, target: Path) -> None:
    """The same files under another folder, without their bytes where the file system can."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)
