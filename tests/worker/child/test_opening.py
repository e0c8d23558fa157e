"""A job's dataset is the one it was submitted with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgery.data.references import resolve_dataset
from surgery.errors import DatasetInvalid
from surgery.io.sources import Sources
from surgery.schemas.data.dataset import HubDataset
from surgery.schemas.resolved import Pinned
from tests.support.service.laid_ready import MODEL
from worker.child.fetcher import fetch_dataset
from worker.child.inputs import data_of
from worker.protocol import JobInputs

OWN = {"hub": "me/own"}


def write(mirror: Path, rows: int) -> None:
    folder = mirror / "datasets" / "me" / "own"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        lines = [json.dumps({"text": f"t {n}", "label": n % 2}) for n in range(rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


def test_a_dataset_that_changed_since_the_submission_is_refused(tmp_path: Path) -> None:
    sources = Sources((tmp_path / "mirror",), tmp_path / "cache", offline=True)
    write(tmp_path / "mirror", 4)
    found = resolve_dataset(HubDataset.model_validate(OWN), sources)
    pinned = Pinned(id=found.id, fingerprint=found.fingerprint, revision=found.revision)
    ready = fetch_dataset(OWN, pinned, sources)
    opened = data_of(JobInputs(model=MODEL, dataset=ready, cache=sources.cache), sources)
    assert len(opened.train) == 4
    write(tmp_path / "mirror", 6)
    with pytest.raises(DatasetInvalid, match="changed since the job was submitted"):
        fetch_dataset(OWN, pinned, sources)
