"""Files that hold lists as text, or one document instead of a line a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgery.data.ingest.columns.shapes import is_written_list
from surgery.data.ingest.ingest import ingest
from surgery.errors import DatasetInvalid
from surgery.schemas.data.dataset import Columns
from surgery.schemas.enums import Problem
from tests.support.rows.files import fault_of, written
from tests.support.rows.ingested import Rows, ingested, refused


@pytest.mark.parametrize(
    "text",
    [
        "['a', 'b']", '["a", "b"]', "('a', 'b')", "{a,b}", '{"a b",c}', "['a' 'b']", "[1, 2]",
        "[1 0 2]", "[]", "array(['a', 'b'], dtype=object)", " ['a',\n 'b'] ", "['a']", "[27]",
        "{'text': ['a', 'b'], 'label': ['A', 'B']}",
    ],
)  # fmt: skip
def test_lists_that_programs_write_are_known(text: str) -> None:
    assert is_written_list(text)


@pytest.mark.parametrize(
    "text", ["a, b", "[laughs]", "(sic)", "[a] or [b]", "{name}", "", "I (and you, too)", 5, ["a"]]
)
def test_texts_with_brackets_are_texts(text: object) -> None:
    assert not is_written_list(text)


@pytest.mark.parametrize("text", ["['x', 'y']", '["x", "y"]', "{x,y}", "['x' 'y']"])
@pytest.mark.parametrize("column", ["choices", "options", "endings"])
def test_choices_written_as_text_are_refused(tmp_path: Path, text: str, column: str) -> None:
    rows: Rows = [{"question": f"q {n}", column: text, "label": n % 2} for n in range(20)]
    rows[0][column] = None
    fault = refused(tmp_path, rows)
    assert (fault.row, fault.column) == (2, column)
    assert "list written as text" in fault.detail
    assert "one column for each choice" in fault.detail
    cell = text.replace('"', '""')
    table = f"question,{column},label\n" + f'q,"{cell}",0\n' * 20
    assert refused(tmp_path, table).column == column


@pytest.mark.parametrize(
    ("tokens", "name", "tags", "column"),
    [
        ("['Ada', 'sang']", "tags", "['B', 'O']", "tokens"),
        ("['Ada', 'sang']", "labels", "['B', 'O']", "tokens"),
        (["Ada", "sang"], "labels", "['B', 'O']", "labels"),
        (["Ada", "sang"], "ner_tags", "[1, 0]", "ner_tags"),
        ("Ada sang", "tags", "B O", "tokens"),
        ("Ada sang", "labels", "B O", "tokens"),
    ],
)
def test_words_and_tags_written_as_text_are_refused(
    tmp_path: Path, tokens: object, name: str, tags: object, column: str
) -> None:
    fault = refused(tmp_path, [{"tokens": tokens, name: tags}] * 20)
    assert (fault.row, fault.column) == (1, column)
    assert "JSON Lines or Parquet" in fault.detail


def test_a_named_text_leaves_lists_unread(tmp_path: Path) -> None:
    rows: Rows = [{"q": f"q {n}", "choices": "['a', 'b']", "label": n % 2} for n in range(20)]
    report = ingested(tmp_path, rows, columns=Columns(text="q", label="label"))
    assert report.problem is Problem.CLASSIFICATION
    assert report.warnings == []


def test_a_list_that_is_not_read_is_told(tmp_path: Path) -> None:
    rows: Rows = [{"question": f"q {n}", "candidates": ["a", "b"], "label": n % 2}
                  for n in range(20)]  # fmt: skip
    [found] = ingested(tmp_path, rows).findings
    assert found.code == "unread_columns"
    assert "'candidates'" in found.detail


def test_labels_that_are_lists_written_as_text_are_told(tmp_path: Path) -> None:
    table = "text,labels\n" + "".join(f"a {n},\"['joy', 'b{n % 2}']\"\n" for n in range(20))
    assert "lists_as_labels" in [found.code for found in ingested(tmp_path, table).findings]


ROWS = [{"text": f"a {n}", "label": n % 2} for n in range(3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n".join(json.dumps(row, indent=2) for row in ROWS), "written over several lines"),
        (json.dumps({"data": ROWS}, indent=1), "written over several lines"),
        (json.dumps(ROWS), "JSON array"),
        (json.dumps(ROWS, indent=1), "JSON array"),
        ("\ufeff" + json.dumps(ROWS * 100_000), "JSON array"),
        (json.dumps({"data": ROWS * 100_000}), "one JSON document"),
    ],
)
def test_other_json_is_called_by_its_name(tmp_path: Path, text: str, words: str) -> None:
    fault = fault_of(written(tmp_path, text), "jsonl")
    assert words in fault.detail
    assert "orient" in fault.detail


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": 1},', "a comma stands behind the object"),
        ('{"a": 1} {"a": 2}', "another object begins there"),
        ("{'a': 1}", "double quotes"),
    ],
)
def test_a_broken_line_is_told_how_to_mend(tmp_path: Path, line: str, words: str) -> None:
    assert words in fault_of(written(tmp_path, line + "\n"), "jsonl").detail


@pytest.mark.parametrize(
    "document",
    [
        {"data": ROWS},
        {"version": "1", "data": ROWS},
        {"text": ["a", "b"], "label": [0, 1]},
        {"text": {"0": "a", "1": "b"}, "label": {"0": 0, "1": 1}},
    ],
)
def test_one_object_for_a_whole_dataset_is_refused(tmp_path: Path, document: object) -> None:
    (tmp_path / "t").write_text(json.dumps(document))
    (tmp_path / "good").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for train, validation in (("t", None), ("good", "t")):
        if validation and set(document) == {"text", "label"}:  # type: ignore[call-overload]
            continue  # it has the columns, and its one row is refused by them
        held = validation and tmp_path / validation
        with pytest.raises(DatasetInvalid) as caught:
            ingest(tmp_path / train, held or None, tmp_path / "out", train_format="jsonl")
        assert "the file is one JSON object" in caught.value.faults[0].detail
