"""Tagged words: what is stored, what is inferred, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgery.data.files.source import Limits
from surgery.data.ingest.ingest import ingest
from surgery.data.references import materialise, resolve_dataset
from surgery.io.sources import Sources
from surgery.schemas.data.dataset import Columns, HubDataset
from surgery.schemas.enums import Problem
from tests.support.rows.ingested import Rows, ingested, lines, refused, stored


def tagged(count: int = 20, **changes: Any) -> Rows:
    """Rows of three words with an entity of two; ``changes`` are made to the third row."""
    rows: Rows = [
        {"tokens": ["from", f"New{n}", "York"], "tags": ["O", "B-LOC", "I-LOC"]}
        for n in range(count)
    ]
    rows[2].update(changes)
    return rows


def test_words_and_tags_are_stored_as_lists(tmp_path: Path) -> None:
    rows = tagged(tags=["O", "B-ORG", "I-ORG"])
    report = ingested(tmp_path, rows, rows[:3])
    assert report.problem is Problem.TOKEN_CLASSIFICATION
    assert report.inferred == ["columns", "problem"]
    assert report.columns == Columns(tokens="tokens", label="tags")
    assert report.labels == ["O", "B-LOC", "B-ORG", "I-LOC", "I-ORG"]
    assert report.label_counts is not None
    assert report.label_counts["validation"] == {
        "O": 3, "B-LOC": 2, "B-ORG": 1, "I-LOC": 2, "I-ORG": 1,
    }  # fmt: skip
    assert report.text_lengths.train[0] == 20
    assert stored(tmp_path / "out")[2] == {"tokens": ["from", "New2", "York"], "label": [0, 2, 4]}
    assert report.warnings[0] == "one word of train only: 'B-ORG', 'I-ORG'; first: train row 3"


def test_tags_of_parquet_and_of_json_lines_are_one_dataset(tmp_path: Path) -> None:
    first = ingested(tmp_path, tagged(), tagged(3))
    for role, rows in (("t", tagged()), ("v", tagged(3))):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{role}.parquet")
    again = ingest(
        tmp_path / "t.parquet", tmp_path / "v.parquet", tmp_path / "again", train_format="parquet"
    )
    assert again.fingerprint == first.fingerprint
    other = ingested(tmp_path, tagged(tokens=["a", "b", "c"]), tagged(3), out="other")
    assert other.fingerprint != first.fingerprint


def test_tags_that_are_indices_are_named_by_labels(tmp_path: Path) -> None:
    rows: Rows = [{"words": ["a", f"b{n}"], "ner_tags": [0, 1]} for n in range(20)]
    named = ingested(tmp_path, rows, labels=["O", "B-PER", "I-PER"], out="named")
    assert named.labels == ["O", "B-PER", "I-PER"]
    assert ingested(tmp_path, rows).labels == ["0", "1"]
    rows[2]["ner_tags"] = [0, 3]
    fault = refused(tmp_path / "out", rows, labels=["O", "B-PER", "I-PER"])
    assert (fault.row, fault.column) == (3, "ner_tags")
    assert "of word 1 (counted from 0) is '3', outside the 3 classes" in fault.detail


@pytest.mark.parametrize(
    ("changes", "column", "words"),
    [
        ({"tags": ["O", "O"]}, "tags", "has 2 tags where tokens has 3 words"),
        ({"tokens": ["a"]}, "tags", "has 3 tags where tokens has 1 word;"),
        ({"tags": None}, "tags", "is missing"),
        ({"tags": "O B I"}, "tags", "of type str"),
        ({"tags": ["O", None, "O"]}, "tags", "of word 1 (counted from 0) is missing"),
        ({"tags": ["O", "", "O"]}, "tags", "of word 1 (counted from 0) is empty"),
        ({"tags": ["O", ["O"], "O"]}, "tags", "is a list"),
        ({"tokens": [], "tags": []}, "tokens", "empty"),
        ({"tokens": ["a", "", "b"]}, "tokens", "word 1 (counted from 0) is empty"),
        ({"tokens": ["a", 5, "b"]}, "tokens", "word 1 (counted from 0) is of type int"),
        ({"tokens": "from New York"}, "tokens", "a list of strings is needed"),
    ],
)
def test_a_wrong_tag_is_named_with_row_and_column(
    tmp_path: Path, changes: dict[str, Any], column: str, words: str
) -> None:
    fault = refused(tmp_path, tagged(**changes), tagged(3))
    assert (fault.file, fault.row, fault.column) == ("train", 3, column)
    assert words in fault.detail


def test_a_tag_only_in_validation_is_an_error(tmp_path: Path) -> None:
    fault = refused(tmp_path, tagged(), tagged(3, tags=["O", "B-ORG", "O"]))
    assert (fault.file, fault.row, fault.column) == ("validation", 3, "tags")
    assert "'B-ORG' of validation never occurs in train" in fault.detail
    fault = refused(tmp_path, [{"tokens": ["a", "b"], "tags": ["O", "O"]}] * 5)
    assert "every label of train is 'O'" in fault.detail


def test_equal_words_with_other_tags_conflict(tmp_path: Path) -> None:
    rows = tagged(6)
    rows += [rows[0], {**rows[1], "tags": ["O", "O", "B-LOC"]}]
    report = ingested(tmp_path, rows, [rows[3]])
    assert report.duplicates.model_dump() == {
        "within_train": 2, "train_and_validation": 1, "conflicting_labels": 1,
    }  # fmt: skip


def test_csv_has_no_lists_of_words(tmp_path: Path) -> None:
    table = "tokens,tags\na b,O O\nc d,O B\n"
    fault = refused(tmp_path, table, problem=Problem.TOKEN_CLASSIFICATION, train_name="mine.csv")
    assert fault.file == "mine.csv"
    assert "mine.csv is CSV" in fault.detail
    assert "JSON Lines or Parquet" in fault.detail


def test_columns_must_be_those_of_words(tmp_path: Path) -> None:
    fault = refused(tmp_path, tagged(), columns=Columns(text="tokens", label="tags"),
                    problem=Problem.TOKEN_CLASSIFICATION)  # fmt: skip
    assert fault.pointer == "/columns/text"
    text = [{"text": f"a {n}", "label": n % 2} for n in range(20)]
    fault = refused(tmp_path, text, problem=Problem.TOKEN_CLASSIFICATION)
    assert fault.pointer == "/columns/tokens"


def test_long_lists_are_within_the_cap_of_a_cell(tmp_path: Path) -> None:
    fault = refused(
        tmp_path, tagged(tokens=["x" * 40, "y" * 40, "z" * 40]), limits=Limits(max_cell_bytes=100)
    )
    assert (fault.row, fault.column) == (3, "tokens")
    assert "120 bytes" in fault.detail


def test_tags_in_a_mirror_are_named_by_the_reference(tmp_path: Path) -> None:
    folder = tmp_path / "mirror/datasets/own/ner"
    folder.mkdir(parents=True)
    rows = [{"tokens": ["a", "b"], "ner_tags": [0, 1]}, {"tokens": ["c"], "ner_tags": [2]}]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(lines(rows))
    sources = Sources((tmp_path / "mirror",), cache=tmp_path / "cache", offline=True)
    reference = HubDataset(
        hub="own/ner", problem=Problem.TOKEN_CLASSIFICATION, labels=["O", "B-X", "I-X"],
        columns=Columns(tokens="tokens", label="ner_tags"),
    )  # fmt: skip
    source = resolve_dataset(reference, sources)
    assert source.metrics[0] == "entity_f1"
    assert materialise(source, sources)[1].labels == ["O", "B-X", "I-X"]
