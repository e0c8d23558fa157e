"""Export a task model to ONNX, check the file on real rows, and add it to a checkpoint."""

from __future__ import annotations

import copy
import re
import shutil
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surgery.checkpoints.card import documents
from surgery.checkpoints.checkpoint import load, read_record
from surgery.data.tokens.dataset import Batch, Encoded, TaskData, choose_rows
from surgery.data.tokens.tokenize import encode
from surgery.errors import ExportFailed
from surgery.io.folders import MANIFEST, complete_folder, link_files, link_folder
from surgery.io.reporter import CheckpointSummary, ForwardingReporter, Reporter
from surgery.models.blocks import model_inputs
from surgery.models.loading import LoadedModel
from surgery.schemas.jobs.finetune import OnnxReport

ONNX_FILE = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
# Largest allowed difference of a logit, as a share of the largest logit: float32 rounds to 1e-7,
# and different kernels add in different orders.
TOLERANCE = 1e-3
SPREAD = 8  # rows of different lengths that are padded together in the check
AXES = {2: ("batch", "sequence"), 3: ("batch", "choices", "sequence")}

ROWS = 64  # validation rows from which those of the check are chosen


class Logits(nn.Module):
    """A task model that takes a batch's tensors in order and returns the logits."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def require_packages() -> None:
    """Raise ExportFailed if packages that the export needs are not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportFailed(
            f"this worker lacks {', '.join(missing)}; install layer-surgeon[worker], or leave "
            "checkpoints.onnx out"
        )


def export_onnx(model: nn.Module, rows: Encoded, target: Path) -> OnnxReport:
    """Export a model, in eval mode and on the CPU, to ``target``, for any batch and sequence size.

    The file is run by onnxruntime on the shortest row, the longest row, and rows of all lengths
    padded together, and compared with torch. Raises ExportFailed if the logits differ, or if an
    operator cannot be exported, which the message then names.
    """
    order = np.argsort(rows.lengths, kind="stable")
    spread = order[np.linspace(0, len(order) - 1, min(SPREAD, len(order))).round().astype(int)]
    mixed = spread.tolist() * (2 if len(spread) == 1 else 1)  # a batch of one would fix its size
    batch = model_inputs(model, rows.batch(mixed))
    _write(Logits(model, list(batch)).eval(), batch, target)
    checked = [[int(order[0])], [int(order[-1])], mixed]
    compared = [_compare(model, model_inputs(model, rows.batch(each)), target) for each in checked]
    difference, largest = (float(value) for value in np.max(compared, axis=0))  # NaN stays NaN
    if not difference <= TOLERANCE * max(1.0, largest):
        raise ExportFailed(
            f"the exported model's logits differ from torch's by {difference:.2g}, where the "
            f"largest logit is {largest:.2g}; leave checkpoints.onnx out"
        )
    return OnnxReport(
        opset=OPSET,
        bytes=target.stat().st_size,
        rows=len({*mixed}),
        lengths=sorted({int(rows.lengths[row]) // rows.choices for row in mixed}),
        max_abs_difference=difference,
    )


def _write(model: Logits, batch: Batch, target: Path) -> None:
    axes = tuple(dict(enumerate(AXES[tensor.dim()])) for tensor in batch.values())
    try:
        with warnings.catch_warnings():
            # The exporter itself uses deprecated parts of torch, which a user cannot change.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                tuple(batch.values()),
                dynamo=True,
                dynamic_shapes=(axes,),
                verbose=False,
                input_names=list(batch),
                output_names=["logits"],
                opset_version=OPSET,
            )
            assert program is not None
            program.save(target, external_data=False)
    except torch.onnx.OnnxExporterError as error:
        raise ExportFailed(_reason(error, model.model)) from error


def _reason(error: Exception, model: nn.Module) -> str:
    """A message with the operator that cannot be exported, and the exporter's reason."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    line = str(cause).strip().partition("\n")[0][:300]
    operator = re.search(r"\baten(?:::|\.)[\w.]+", f"{line} {error}")
    named = f" (operator {operator[0]})" if operator else ""
    return (
        f"{type(model).__name__} cannot be exported to ONNX{named}: {line}; leave "
        "checkpoints.onnx out"
    )


def _compare(model: nn.Module, batch: Batch, path: Path) -> tuple[float, float]:
    """The largest difference of a logit from torch's, and torch's largest logit.

    The logits of padding tokens are left out, since they are not used.
    """
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    actual = _run(path, batch)
    if expected.ndim == 3:
        real = batch["attention_mask"].numpy() == 1
        expected, actual = expected[real], actual[real]
    return float(np.abs(actual - expected).max()), float(np.abs(expected).max())


def _run(path: Path, batch: Batch) -> np.ndarray[Any, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    inputs = {name: batch[name].numpy() for name in names}
    logits: np.ndarray[Any, Any] = session.run(["logits"], inputs)[0]
    return logits


class BestExport(ForwardingReporter):
    """A reporter that keeps a copy of the best checkpoint, and exports it when the run ends.

    It exports the untrained model at once, so that a model that cannot be exported fails before
    training. ``earlier`` is the best checkpoint, with its record, of an interrupted attempt that
    this run resumes. Raises ExportFailed.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        data: TaskData,
        max_length: int,
        report: Reporter,
        earlier: tuple[Path, CheckpointSummary] | None = None,
    ) -> None:
        super().__init__(report)
        require_packages()
        self._loaded, self._best = loaded, earlier
        chosen = choose_rows(len(data.validation), ROWS, seed=0)
        self._rows = encode(data.validation, loaded.tokenizer, max_length, chosen)
        self.phase("export")
        trial = self.new_folder("onnx-trial")
        trial.mkdir()
        try:
            export_onnx(copy.deepcopy(loaded.model).cpu().eval(), self._rows, trial / ONNX_FILE)
        finally:
            shutil.rmtree(trial)

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        """Keep the files of the best checkpoint under another name, then report it."""
        if record.is_best:
            copied = link_folder(directory, self.new_folder(f"best-{record.step}"))
            if self._best is not None and self._best[0].parent == copied.parent:
                shutil.rmtree(self._best[0])
            self._best = copied, record
        super().checkpoint(directory, record)

    def finish(self) -> OnnxReport:
        """Export the best checkpoint and report it again, with the file in it."""
        assert self._best is not None, "a finished run has evaluated at least once"
        folder, record = self._best
        self.phase("export")
        began = time.perf_counter()
        target = self.new_folder(f"checkpoint-{record.step}-onnx")
        with complete_folder(target) as building:
            link_files(folder, building)
            (building / MANIFEST).unlink()
            model = load(self._loaded.snapshot, folder).cpu()
            report = export_onnx(model, self._rows, building / ONNX_FILE)
            report.seconds = round(time.perf_counter() - began, 3)
            entries = {**read_record(folder), "onnx": report.model_dump(mode="json")}
            for name, text in documents(entries).items():
                (building / name).unlink()  # a link: the linked file must not change
                (building / name).write_text(text)
        super().checkpoint(target, record)
        return report
