"""Shows the rows of a stored dataset as a model will see them, with a process for the tokenizer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import ValidationError

from app.artifacts.machine import request_folder
from app.db.tables import Dataset
from app.errors import Conflict, NotFound, ServiceError
from app.service import Service
from app.submissions.checks import pointing
from surgery.errors import ModelUnsupported
from surgery.models.source.copy import tokenizer_copy
from surgery.models.source.resolve import resolve_model
from surgery.schemas.data.preview import Preview, PreviewReport

Json = dict[str, Any]
Split = Literal["train", "validation"]
SAMPLED_ROWS = 1000
SAMPLED_CHARACTERS = 2_000_000  # of all these rows: a cell may have a million
TIMEOUT_SECONDS = 60.0
# Nothing secret: the process runs a stranger's tokenizer. The path finds the installed packages.
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
CONFINED = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "USE_TORCH": "0"}
AT_ONCE = threading.BoundedSemaphore(2)  # processes, each of which takes a core
COLUMNS = ("text", "text_pair", "choices", "tokens", "label")


class PreviewsBusy(ServiceError):
    """Other previews are computed; try again."""

    status = 503
    code = "busy"
    retriable = True


def preview(
    service: Service, dataset: Dataset, model: str, split: Split, limit: int, max_length: int
) -> Preview:
    """The first rows of a split in a model's tokens, and the lengths of a sample of its rows.

    Raises ModelNotFound, ModelUnsupported, NotFound or Conflict.
    """
    sources = service.settings.sources
    with pointing("/model"):
        source = resolve_model(model, sources)
    rows = _sample(service, dataset, split, limit)
    reference = f"{source.id}@{source.revision}" if source.revision else source.id
    with request_folder(service.settings, "preview") as scratch:
        folder = scratch / "model"
        folder.mkdir()
        with pointing("/model"):
            tokenizer_copy(source, sources, folder)
            return _run(
                {
                    "model": reference,
                    "folder": str(folder),
                    "dataset": dataset.id,
                    "split": split,
                    "problem": dataset.report["problem"],
                    "labels": dataset.report["labels"],
                    "total": dataset.report["rows"][split],
                    "rows": rows,
                    "shown": min(limit, len(rows)),
                    "max_length": max_length,
                }
            )


def _sample(service: Service, dataset: Dataset, split: Split, first: int) -> list[Json]:
    """The first rows of a split, and others at equal distances behind them."""
    try:
        held = service.storage.fetch_folder(dataset.path)
    except FileNotFoundError as error:
        raise NotFound(f"dataset {dataset.id} was deleted meanwhile") from error
    if held is None:
        raise Conflict(
            f"the files of dataset {dataset.id} are damaged; delete it and send it again"
        )
    try:
        total = dataset.report["rows"][split]
        step = max(1, total // SAMPLED_ROWS)
        rows, characters = [], 0
        for place, row in enumerate(_rows(held.path / f"{split}.arrow", first, step)):
            characters += _characters(row)
            if place and characters > SAMPLED_CHARACTERS:
                break
            rows.append(row)
        return rows
    finally:
        held.release()


def _rows(path: Path, first: int, step: int) -> Iterator[Json]:
    """The first rows of an Arrow stream, and then each whose number is a multiple of ``step``."""
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        number = 0
        for batch in stream:
            wanted = [
                row
                for row in range(len(batch))
                if number + row < first or (number + row) % step == 0
            ]
            number += len(batch)
            columns = [name for name in batch.schema.names if name in COLUMNS]
            yield from batch.select(columns).take(pa.array(wanted, pa.int64())).to_pylist()


def _characters(cell: Any) -> int:
    if isinstance(cell, str):
        return len(cell)
    values = cell.values() if isinstance(cell, dict) else cell
    return sum(map(_characters, values)) if isinstance(cell, dict | list) else 1


def _run(order: Json) -> Preview:
    """Let a process of its own carry out an order: the tokenizer is somebody else's."""
    if not AT_ONCE.acquire(timeout=TIMEOUT_SECONDS):
        raise PreviewsBusy(headers={"Retry-After": "10"})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "surgery.models.preview"],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env={**{n: os.environ[n] for n in PASSED_ON if n in os.environ}, **CONFINED},
        )
    except subprocess.TimeoutExpired as error:
        raise _runaway() from error
    finally:
        AT_ONCE.release()
    try:
        report = PreviewReport.model_validate_json(done.stdout)
    except ValidationError as error:
        raise _runaway() from error
    if report.preview is None:
        raise ModelUnsupported(str(report.detail))
    return report.preview


def _runaway() -> ModelUnsupported:
    return ModelUnsupported(
        "the model's tokenizer takes too long or too much memory for these rows, or ends its "
        "process; jobs with it would fail too"
    )
