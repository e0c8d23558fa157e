from __future__ import annotations

import gzip
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from datasets import Dataset
from nli_rows import nli_rows
from preset_rows import varied

from surgery.dataset_spec import Columns, HubDataset
from surgery.errors import DatasetInvalid, DatasetNotFound, UpstreamUnavailable
from surgery.evaluation_sets import find_evaluation_sets
from surgery.references import DatasetSource, materialise, resolve_dataset, resolve_measured
from surgery.sources import Sources
from surgery.tasks import TASKS
from surgery.terms import Problem

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the loopback Hub holds, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    error: str | None = None
    tokens: set[str | None] = field(default_factory=set)
    address: str = ""

    def info(self) -> bytes:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        whole = {"id": "me/own", "sha": SHA, "siblings": siblings, "cardData": self.card}
        return json.dumps(whole).encode()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.tokens.add(self.headers.get("Authorization"))
            path = self.path.split("?", maxsplit=1)[0]
            name = path.partition(f"/resolve/{SHA}/")[2]
            known = path.startswith("/api/datasets/me/own") or name in fake.files
            body = fake.files.get(name, b"") if name else fake.info()
            self.send_response(fake.status if known else 404)
            if fake.error:
                self.send_header("X-Error-Code", fake.error)
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  # the names http.server looks for

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def online(hub: FakeHub, tmp_path: Path) -> Sources:
    return Sources((), tmp_path / "cache", token="hf_canary", endpoint=hub.address)


TRAIN = b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'
OWN = HubDataset(hub="me/own")


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
    again = resolve_measured("super_glue/axg", online, SHA)
    assert (again.fingerprint, again.revision) == (found.fingerprint, SHA)
    with pytest.raises(DatasetInvalid, match="put a copy that has them in the mirror") as caught:
        find_evaluation_sets(
            ["glue/ax"], "ds_1", Problem.CLASSIFICATION, TASKS["glue/ax"].labels, online
        )
    assert caught.value.faults[0].pointer == "/also_evaluate/0"


def test_the_card_names_files_rows_and_classes(hub: FakeHub, online: Sources) -> None:
    hub.files = {f"cola/train-{n}.jsonl": TRAIN for n in range(2)}
    hub.files |= {"cola/dev.jsonl": TRAIN, "mnli/train.jsonl": b"{}"}
    hub.card = {
        "configs": [
            {"config_name": "cola", "data_files": [
                {"split": "train", "path": "cola/train-*"},
                {"split": "validation", "path": ["cola/dev.jsonl"]},
            ]},
            {"config_name": "mnli", "data_files": "mnli/*"},
        ],
        "dataset_info": [{
            "config_name": "cola",
            "features": [
                {"name": "text", "dtype": "string"},
                {"name": "label", "dtype": {"class_label": {"names": {"1": "y", "0": "n"}}}},
            ],
            "splits": [{"name": "train", "num_examples": 4}],
        }],
    }  # fmt: skip
    found = resolve_dataset(HubDataset(hub="me/own", config="cola"), online)
    assert found.remote["train"] == ("cola/train-0.jsonl", "cola/train-1.jsonl")
    assert found.rows == {"train": 4, "validation": None}
    assert found.labels == ("n", "y")
    assert found.metrics == ("accuracy", "f1")
    assert materialise(found, online)[1].rows == {"train": 4, "validation": 2}
    with pytest.raises(DatasetNotFound, match=r"did you mean 'cola'.*It has: cola, mnli"):
        resolve_dataset(HubDataset(hub="me/own", config="colla"), online)
    with pytest.raises(DatasetNotFound, match="several configs"):
        resolve_dataset(OWN, online)


@pytest.mark.parametrize("form", ["sequence", "list"])
def test_the_card_names_the_tags_of_a_list(hub: FakeHub, online: Sources, form: str) -> None:
    rows = [{"tokens": ["a", "b"], "tags": [0, 1]}, {"tokens": ["c"], "tags": [2]}]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    hub.files = {"train.jsonl": text, "validation.jsonl": text}
    named = {"class_label": {"names": {"0": "O", "1": "B-X", "2": "I-X"}}}
    hub.card = {"dataset_info": {"features": [{"name": "tags", form: named}]}}
    found = resolve_dataset(
        HubDataset(
            hub="me/own", columns=Columns(tokens="tokens", label="tags"),
            problem=Problem.TOKEN_CLASSIFICATION,
        ),
        online,
    )  # fmt: skip
    assert found.labels == ("O", "B-X", "I-X")
    assert found.metrics[0] == "entity_f1"
    assert materialise(found, online)[1].labels == ["O", "B-X", "I-X"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/x.csv", "../../secret.csv"]
)
def test_a_card_cannot_point_elsewhere(hub: FakeHub, online: Sources, path: str) -> None:
    hub.files = {"train.zip": b"", "x.pkl": b"", "../../secret.csv": b"text,label\na,1\n"}
    hub.card = {"configs": [{"config_name": "default", "data_files": path}]}
    with pytest.raises(DatasetNotFound, match="no csv, tsv, jsonl or parquet file"):
        resolve_dataset(OWN, online)


def test_compressed_files_are_read(hub: FakeHub, online: Sources) -> None:
    hub.files = {f"data/train-{n}.json.gz": gzip.compress(TRAIN) for n in range(2)}
    hub.files |= {"data/train.parquet.gz": b"", "dev.jsonl.zst": zstd.compress(TRAIN)}
    found = resolve_dataset(OWN, online)
    assert found.remote["train"] == ("data/train-0.json.gz", "data/train-1.json.gz")
    assert materialise(found, online)[1].rows == {"train": 4, "validation": 2}


def test_a_bomb_is_refused_on_loading(hub: FakeHub, online: Sources) -> None:
    hub.files = {"train.csv.gz": gzip.compress(b"text,label\n" + b"x,1\n" * 8_000_000)}
    hub.files["validation.jsonl"] = TRAIN
    with pytest.raises(DatasetInvalid, match="200 times its size"):
        materialise(resolve_dataset(OWN, online), online)


@pytest.mark.parametrize(
    "names",
    [
        ["train.jsonl", "train.jsonl.gz"],
        ["train.csv.gz", "train.csv.zst"],
        ["train.jsonl", "data/train.jsonl"],
        ["train.jsonl", "train_extra.jsonl"],
        ["train/1.jsonl", "data/train/1.jsonl"],
    ],
)
def test_two_files_that_may_be_the_split_are_refused(
    hub: FakeHub, online: Sources, names: list[str]
) -> None:
    hub.files = dict.fromkeys([*names, "validation.jsonl"], TRAIN)
    with pytest.raises(DatasetInvalid, match="either may be its split 'train'") as caught:
        resolve_dataset(OWN, online)
    assert all(name in caught.value.detail for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002-4b2a2bb19c6e7bd3.jsonl", "train-00001-of-00002-c0ffee0123456789.jsonl"],
        ["data/train/a.jsonl", "data/train/b.jsonl.gz"],
        ["train_1.jsonl.gz", "train_2.jsonl"],
    ],
)  # fmt: skip
def test_parts_of_one_split_are_read_together(
    hub: FakeHub, online: Sources, names: list[str]
) -> None:
    hub.files = dict.fromkeys([*names, "validation.jsonl", "train.csv"], TRAIN)
    assert resolve_dataset(OWN, online).remote["train"] == tuple(names)


def test_a_dataset_with_a_script_is_refused(hub: FakeHub, online: Sources) -> None:
    hub.files = {"own.py": b"canary", "train.jsonl": TRAIN, "validation.jsonl": TRAIN}
    with pytest.raises(DatasetInvalid, match="no code of a dataset is run"):
        resolve_dataset(OWN, online)


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


def test_a_hub_dataset_needs_the_hub_to_load(tmp_path: Path) -> None:
    source = DatasetSource(
        id="me/own", reference=OWN, origin="hub", revision=SHA, fingerprint="sha256:00"
    )
    with pytest.raises(DatasetNotFound, match="offline"):
        materialise(source, Sources((), tmp_path, offline=True))
