"""The ONNX form of a model: whole, of any batch and length, and equal to torch's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from surgery import load
from surgery.checkpoints.merge import RECORD
from surgery.checkpoints.onnx_export import BestExport, _run, export_onnx
from surgery.data.presets.tasks import metrics_for
from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.tokenize import encode
from surgery.errors import ExportFailed
from surgery.evaluation.metrics import measure
from surgery.io.folders import is_intact
from surgery.io.reporter import Quiet
from surgery.models.blocks import model_inputs
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.training.loop import finetune
from tests.support.models.checkpoints import loaded_from, task
from tests.support.models.checkpoints import write_checkpoint as write_base

# Classes are exported with the best checkpoint of a run, below.
CASES = [
    pytest.param("bert", Problem.MULTIPLE_CHOICE, marks=pytest.mark.slow),
    pytest.param("distilbert", Problem.REGRESSION, marks=pytest.mark.slow),
    pytest.param("bert", Problem.MULTI_LABEL, marks=pytest.mark.slow),
    pytest.param("modernbert", Problem.TOKEN_CLASSIFICATION, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "problem"), CASES)
def test_the_file_gives_what_torch_gives(kind: str, problem: Problem, tmp_path: Path) -> None:
    loaded = loaded_from(write_base(tmp_path / "base", kind), task(problem))
    rows = encode(task(problem).validation, loaded.tokenizer, 32)
    report = export_onnx(loaded.model, rows, tmp_path / "model.onnx")
    assert report.max_abs_difference < 1e-5
    assert report.bytes == (tmp_path / "model.onnx").stat().st_size
    assert len(report.lengths) > 2
    for chosen in ([1], [0, 3, 4, 2, 5], [2, 2, 2]):
        batch = model_inputs(loaded.model, rows.batch(chosen))
        with torch.no_grad():
            expected = loaded.model(**batch).logits
        found = torch.from_numpy(_run(tmp_path / "model.onnx", batch))
        if problem is Problem.TOKEN_CLASSIFICATION:
            real = batch["attention_mask"] == 1
            found, expected = found[real], expected[real]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_encoder_that_cannot_be_exported_fails_before_training(tmp_path: Path) -> None:
    loaded = loaded_from(write_base(tmp_path / "base", "xlnet"), task())
    with pytest.raises(ExportFailed, match=r"XLNetFor\w+ cannot be exported.*operator aten"):
        BestExport(loaded, task(), 32, Quiet(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_file_that_says_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "surgery.checkpoints.onnx_export._run", lambda path, batch: _run(path, batch) + 0.5
    )
    loaded = loaded_from(write_base(tmp_path / "base", "distilbert"), task())
    rows = encode(task().validation, loaded.tokenizer, 32)
    with pytest.raises(ExportFailed, match=r"differ from torch's by 0\.5"):
        export_onnx(loaded.model, rows, tmp_path / "model.onnx")


def test_a_worker_without_the_packages_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.checkpoints.onnx_export.PACKAGES", ("onnx", "no_such_package"))
    loaded = loaded_from(write_base(tmp_path / "base", "bert"), task())
    with pytest.raises(ExportFailed, match=r"lacks no_such_package; install layer-surgeon\[worker"):
        BestExport(loaded, task(), 32, Quiet(tmp_path / "out"))


@pytest.mark.slow
def test_the_best_checkpoint_of_a_run_gets_the_file(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "distilbert")
    data = TaskData(**{**vars(task()), "metrics": metrics_for(Problem.CLASSIFICATION, ["a", "b"])})
    loaded = loaded_from(base, data)
    spec = FinetuneSpec.model_validate({
        "model": "m", "dataset": "d", "selection": {"policy": "last_k", "k": 1},
        "training": {"epochs": 3, "learning_rate": 0.02, "batch_size": 3},
        "checkpoints": {"onnx": True},
    })  # fmt: skip
    reported: list[tuple[Path, Any]] = []
    quiet = Quiet(tmp_path / "out")
    quiet.checkpoint = lambda folder, record: reported.append((folder, record))  # type: ignore[method-assign]
    result = finetune(loaded, data, spec, layers_of_model(loaded)[-1:], quiet)
    folder, record = reported[-1]
    assert record == next(r for f, r in reported[:-1] if r.step == result.best.step)
    assert result.onnx is not None
    assert is_intact(folder)
    plain = folder.with_name(f"checkpoint-{result.best.step}")
    assert is_intact(plain)
    added = {path.name for path in folder.iterdir()} - {path.name for path in plain.iterdir()}
    assert added == {"model.onnx"}
    assert json.loads((folder / RECORD).read_text())["onnx"]["bytes"] == result.onnx.bytes
    rows = encode(data.validation, loaded.tokenizer, 32)
    batch = rows.batch(list(range(len(rows))))
    logits = _run(folder / "model.onnx", batch)
    assert measure(logits, rows.labels, data.problem, data.metrics) == result.best.metrics
    with torch.no_grad():
        best = load(base, folder)(**model_inputs(loaded.model, batch)).logits
    torch.testing.assert_close(torch.from_numpy(logits), best, rtol=0, atol=1e-5)
    _, code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("<this folder>", str(folder)), names)
    assert names["logits"].shape == (2, 2)


def test_the_best_checkpoint_must_stay() -> None:
    body = {"model": "m", "dataset": "d", "selection": {"policy": "head_only"}}
    with pytest.raises(ValidationError, match="keep last drops"):
        FinetuneSpec.model_validate({**body, "checkpoints": {"onnx": True, "keep": "last"}})
