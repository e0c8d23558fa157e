"""Datasets of the Hub: pinned, loaded, and what the Hub refuses."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from surgery.data.presets.tasks import TASKS
from surgery.data.references import DatasetSource, materialise, resolve_dataset, resolve_evaluation
from surgery.errors import DatasetInvalid, DatasetNotFound, UpstreamUnavailable
from surgery.evaluation.evaluation_sets import find_evaluation_sets
from surgery.io.sources import Sources
from surgery.models.source.resolve import resolve_model
from surgery.schemas.data.dataset import HubDataset
from surgery.schemas.enums import Problem
from tests.support.outside.hub import OWN, SHA, TRAIN, FakeHub
from tests.support.rows.nli import nli_rows
from tests.support.rows.presets import varied


def test_a_hub_dataset_is_pinned_and_loaded(hub: FakeHub, online: Sources) -> None:
    hub.files = {"train.jsonl": TRAIN, "data/validation.jsonl": TRAIN, "README.md": b"#"}
    found = resolve_dataset(OWN, online)
    assert (found.origin, found.revision, found.id) == ("hub", SHA, "me/own")
    assert found.rows == {"train": None, "validation": None}
    assert found.remote == {"train": ("train.jsonl",), "validation": ("data/validation.jsonl",)}
    folder, report = materialise(found, online)
    assert report.rows == {"train": 2, "validation": 2}
    assert report.labels == ["0", "1"]
    assert hub.tokens == {"Bearer hf_canary"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    hub.status = 500
    assert materialise(found, online) == (folder, report)


def test_texts_are_built_of_the_hubs_parquet(
    hub: FakeHub, online: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ReCoRD as the Hub holds it: lists, structs, no label; a row becomes several."""
    monkeypatch.setitem(
        TASKS, "super_glue/record", replace(TASKS["super_glue/record"], hub="me/own")
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(varied("super_glue/record", 4)), sink)
    split = [{"split": part, "path": f"record/{part}-*"} for part in ("train", "validation")]
    hub.card = {
        "configs": [{"config_name": "record", "data_files": split}],
        "dataset_info": [{
            "config_name": "record", "splits": [{"name": "train", "num_examples": 4}],
        }],
    }  # fmt: skip
    hub.files = {
        f"record/{part}-00000-of-00001.parquet": sink.getvalue() for part in ("train", "validation")
    }
    found = resolve_dataset("super_glue/record", online)
    assert (found.origin, found.revision, found.id) == ("hub", SHA, "super_glue/record")
    assert found.rows == {"train": None, "validation": None}, "the card counts queries"
    pinned = resolve_dataset("super_glue/record", online, SHA)
    assert pinned.fingerprint == found.fingerprint, "as a worker finds it again"
    folder, report = materialise(found, online)
    assert report.rows == {"train": 12, "validation": 12}
    rows = Dataset.from_file(str(folder / "train.arrow"))
    assert (rows["label"][:3], rows["f1"][:3]) == ([0, 0, 1], [0.0, 2 / 3, 1.0])


def test_a_diagnostic_is_one_file_of_the_hub(
    hub: FakeHub, online: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preset without a train split; the copy of another has no labels."""
    for name in ("super_glue/axg", "glue/ax"):
        monkeypatch.setitem(TASKS, name, replace(TASKS[name], hub="me/own"))
    lines = "".join(json.dumps(row) + "\n" for row in nli_rows("super_glue/axg", 6, seed=0))
    hub.files = {"axg/test.jsonl": lines.encode(), "ax/test.jsonl": b"{}"}
    labels = ["not_entailment", "entailment"]
    [found] = find_evaluation_sets(
        ["super_glue/axg"], "ds_1", Problem.CLASSIFICATION, labels, online
    )
    assert (found.origin, found.revision) == ("hub", SHA)
    folder, report = materialise(found, online)
    assert report.rows["validation"] == 6
    table = Dataset.from_file(str(folder / "validation.arrow"))
    assert table["group"][:] == [0, 0, 1, 1, 2, 2]
    again = resolve_evaluation("super_glue/axg", online, SHA)
    assert (again.fingerprint, again.revision) == (found.fingerprint, SHA)
    with pytest.raises(DatasetInvalid, match="put a copy that has them in the mirror") as caught:
        find_evaluation_sets(
            ["glue/ax"], "ds_1", Problem.CLASSIFICATION, TASKS["glue/ax"].labels, online
        )
    assert caught.value.faults[0].pointer == "/also_evaluate/0"


@pytest.mark.parametrize(
    ("status", "error", "expected", "match"),
    [
        (404, "RepoNotFound", DatasetNotFound, "no dataset me/own"),
        (404, "RevisionNotFound", DatasetNotFound, "no revision 'v2'"),
        (403, "GatedRepo", DatasetNotFound, "gated"),
        (403, None, DatasetNotFound, "refuses"),
        (429, None, UpstreamUnavailable, "try again"),
        (500, None, UpstreamUnavailable, "try again"),
    ],
)
def test_what_the_hub_refuses_is_told(
    hub: FakeHub,
    online: Sources,
    status: int,
    error: str | None,
    expected: type[Exception],
    match: str,
) -> None:
    hub.status, hub.error = status, error
    with pytest.raises(expected, match=match) as caught:
        resolve_dataset(HubDataset(hub="me/own", revision="v2"), online)
    assert "hf_canary" not in str(caught.value)


def test_a_hub_out_of_reach_may_be_tried_again(online: Sources) -> None:
    away = replace(online, endpoint="http://127.0.0.1:9")
    with pytest.raises(UpstreamUnavailable, match="did not answer") as caught:
        resolve_dataset(OWN, away)
    assert caught.value.retriable
    with pytest.raises(UpstreamUnavailable, match="did not answer for the model"):
        resolve_model("me/own", away)


def test_a_hub_dataset_needs_the_hub_to_load(tmp_path: Path) -> None:
    source = DatasetSource(
        id="me/own", reference=OWN, origin="hub", revision=SHA, fingerprint="sha256:00"
    )
    with pytest.raises(DatasetNotFound, match="offline"):
        materialise(source, Sources((), tmp_path, offline=True))
