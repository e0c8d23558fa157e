"""Which of a Hub dataset's files are read, and what they may not be."""

from __future__ import annotations

import gzip
import json

import pytest
from backports import zstd

from surgery.data.references import materialise, resolve_dataset
from surgery.errors import DatasetInvalid, DatasetNotFound
from surgery.io.sources import Sources
from surgery.schemas.data.dataset import Columns, HubDataset
from surgery.schemas.enums import Problem
from tests.support.outside.hub import OWN, TRAIN, FakeHub


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
    assert found.metrics == ("accuracy", "f1", "macro_f1")
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
    row = b"x" * 999 + b",1\n"
    hub.files = {"train.csv.gz": gzip.compress(b"text,label\n" + row * 32_000)}
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
