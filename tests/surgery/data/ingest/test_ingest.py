from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgery.data.files.source import Limits
from surgery.data.ingest.ingest import ingest
from surgery.errors import DatasetInvalid, Fault
from surgery.schemas.data.dataset import Columns, DatasetReport
from surgery.schemas.enums import Problem

CSV = "text,label\n" + "".join(f"row {n},{'good' if n % 2 else 'bad'}\n" for n in range(20))


def ingested(
    tmp_path: Path,
    train: str,
    validation: str | None = None,
    *,
    kind: Any = "csv",
    out: str = "out",
    **options: Any,
) -> DatasetReport:
    first, second = tmp_path / f"{out}.train.{kind}", tmp_path / f"{out}.validation.{kind}"
    first.write_text(train)
    if validation is not None:
        second.write_text(validation)
    held_out = None if validation is None else second
    return ingest(first, held_out, tmp_path / out, train_format=kind, **options)


def refused(
    tmp_path: Path, train: str, validation: str | None = None, **options: Any
) -> list[Fault]:
    with pytest.raises(DatasetInvalid) as caught:
        ingested(tmp_path, train, validation, **options)
    left = [path.name for path in tmp_path.iterdir() if path.suffix not in {".csv", ".jsonl"}]
    assert left == [], "nothing is kept of a dataset with errors"
    return caught.value.faults


def stored(folder: Path, split: str) -> list[dict[str, Any]]:
    with pa.memory_map(str(folder / f"{split}.arrow")) as file:
        rows: list[dict[str, Any]] = pa.ipc.open_stream(file).read_all().to_pylist()
    return rows


def lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_two_files_become_two_splits_and_a_report(tmp_path: Path) -> None:
    report = ingested(tmp_path, CSV, "label,text\ngood,new\nbad,other\n")
    assert report.problem is Problem.CLASSIFICATION
    assert report.labels == ["bad", "good"]
    assert report.inferred == ["columns", "problem"]
    assert report.columns == Columns(text="text", label="label")
    assert report.rows == {"train": 20, "validation": 2}
    assert report.label_counts == {
        "train": {"bad": 10, "good": 10}, "validation": {"bad": 1, "good": 1},
    }  # fmt: skip
    assert report.label_range is None
    assert report.text_lengths.train[0] == 20
    assert report.warnings == []
    assert stored(tmp_path / "out", "validation") == [
        {"text": "new", "label": 1},
        {"text": "other", "label": 0},
    ]
    assert stored(tmp_path / "out", "train")[1] == {"text": "row 1", "label": 1}
    kept = (tmp_path / "out" / "report.json").read_text()
    assert DatasetReport.model_validate_json(kept) == report
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.json", "train.arrow", "validation.arrow",
    ]  # fmt: skip


def test_what_is_stored_opens_as_a_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    ingested(tmp_path, CSV)
    table = datasets.Dataset.from_file(str(tmp_path / "out" / "train.arrow"))
    assert table.column_names == ["text", "label"]
    assert len(table) == 18


def test_pairs_and_numbers(tmp_path: Path) -> None:
    rows = [{"idx": n, "sentence1": f"a {n}", "sentence2": "b", "score": n / 4} for n in range(12)]
    rows[3]["sentence2"] = None
    report = ingested(tmp_path, lines(rows), kind="jsonl")
    assert report.problem is Problem.REGRESSION
    assert report.columns == Columns(text="sentence1", text_pair="sentence2", label="score")
    assert report.inferred == ["columns", "problem", "validation"]
    assert report.labels == []
    assert report.label_counts is None
    assert report.label_range is not None
    assert report.label_range["train"][1] <= 2.75
    assert report.warnings == [
        "rows of train with one text of the pair empty: 1; first: train row 4"
    ]
    assert stored(tmp_path / "out", "train")[0] == {
        "text": "a 0", "text_pair": "b", "label": 0.0,
    }  # fmt: skip


def test_the_same_content_has_the_same_fingerprint_in_any_format(tmp_path: Path) -> None:
    first = ingested(tmp_path, CSV, out="one")
    again = ingested(tmp_path, CSV, out="two")
    rows = [{"text": f"row {n}", "label": "good" if n % 2 else "bad"} for n in range(20)]
    jsonl = ingested(tmp_path, lines(rows), out="jsonl", kind="jsonl")
    other = ingested(tmp_path, CSV.replace("row 3", "row three"), out="three")
    assert first.fingerprint == again.fingerprint == jsonl.fingerprint
    assert first.fingerprint.startswith("sha256:")
    assert first.fingerprint != other.fingerprint


def test_given_labels_are_indexed_by_number_or_named(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": "yes"}]
    report = ingested(tmp_path, lines(rows), lines(rows[:1]), kind="jsonl", labels=["no", "yes"])
    assert report.labels == ["no", "yes"]
    assert [row["label"] for row in stored(tmp_path / "out", "train")] == [1, 0, 1]


@pytest.mark.parametrize("value", [-1, 2, 0.5, "maybe", "-1"])
def test_a_label_outside_the_given_ones_is_named(tmp_path: Path, value: object) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": value}]
    [fault] = refused(tmp_path, lines(rows), kind="jsonl", labels=["no", "yes"])
    assert (fault.row, fault.column) == (3, "label")
    assert "outside the 2 classes" in fault.detail


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (None, "missing"), ("", "empty"), ("  ", "empty"), (float("nan"), "nan"),
        (float("inf"), "inf"), ("NaN", "NaN"), ([1], "is a list"), ({"a": 1}, "is a dict"),
        ("x" * 300, "300 characters"), (2**70, "64 bits"), ("1e999", "largest number"),
    ],
)  # fmt: skip
def test_a_bad_label_is_named_with_its_row(tmp_path: Path, value: object, detail: str) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": value}]
    [fault] = refused(tmp_path, lines(rows), lines(rows[:2]), kind="jsonl")
    assert (fault.file, fault.row, fault.column) == ("train", 3, "label")
    assert detail in fault.detail


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    [fault] = refused(tmp_path, "text,sentiment\na,1\nb,0\n")
    assert fault.pointer == "/columns/label"
    assert "text, sentiment" in fault.detail
    [fault] = refused(tmp_path, CSV, columns=Columns(text="txt", label="label"))
    assert fault.pointer == "/columns/text"
    assert "did you mean 'text'?" in fault.detail
    [fault] = refused(tmp_path, "a,b,label\nx,y,1\n")
    assert fault.pointer == "/columns/text"
    [fault] = refused(tmp_path, CSV, "text,target\nx,good\n", validation_name="dev.csv")
    assert fault.file == "dev.csv"


def test_the_same_fault_in_many_rows_is_told_once(tmp_path: Path) -> None:
    train = "text,label\n,1\nb\nc,\nd,0\ne,1\n" + ",0\n" * 200
    faults = refused(tmp_path, train, train_name="mine.csv")
    assert [(fault.row, fault.column, fault.count) for fault in faults] == [
        (1, "text", 201), (2, None, None), (3, "label", None),
    ]  # fmt: skip
    assert faults[0].rows == (1, *range(6, 15))
    assert {fault.file for fault in faults} == {"mine.csv"}
    with pytest.raises(DatasetInvalid, match=r"^203 problems found; .*mine.csv, row 1"):
        ingested(tmp_path, train, train_name="mine.csv")


def test_faults_that_differ_in_what_they_quote_are_told_up_to_five(tmp_path: Path) -> None:
    rows = "".join(f"a text {n},{n}.5\nanother {n},word {n}\n" for n in range(23))
    faults = refused(tmp_path, "text,label\n" + rows, problem=Problem.REGRESSION)
    assert [(fault.row, fault.count) for fault in faults] == [
        (2, None), (4, None), (6, None), (8, None), (10, None), (12, 18),
    ]  # fmt: skip


def test_columns_are_proposed_by_their_content(tmp_path: Path) -> None:
    lines_of = [
        f"{n},2026-01-{n % 28 + 1:02},Order {n} is late,please tell me where my order {n} is,"
        f"{['shipping', 'billing'][n % 2]},{n % 3}"
        for n in range(40)
    ]
    train = "\n".join(["ticket,opened,subject,body,team,urgency", *lines_of])
    [fault] = refused(tmp_path, train, train_name="t.csv")
    assert (fault.pointer, fault.suggestion) == ("/columns", {"text": "body", "label": "team"})
    assert "'body' (40 different of 40) looks like the text" in fault.detail
    assert "'urgency' could be the label too" in fault.detail
    [fault] = refused(tmp_path, train, columns=Columns(text="subject"))
    assert fault.suggestion == {"text": "subject", "label": "team"}


@pytest.mark.parametrize("words", [5, 100])
def test_texts_that_are_read_as_labels_are_told(tmp_path: Path, words: int) -> None:
    body = " ".join(["word"] * words)
    train = "text,label\n" + "".join(f"{'ab'[n % 2]},{body} {n}\n" for n in range(40))
    fault, *others = refused(tmp_path, train + f"a,{body} 0\n")
    assert re.match(r"40 different labels in (the first )?4\d rows: is this the", fault.detail)
    assert fault.suggestion == {"text": "label", "label": "text"}
    assert all("characters long" in other.detail for other in others)


def test_a_text_must_be_a_string(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 0}, {"text": 5, "label": 1}, {"label": 1}]
    faults = refused(tmp_path, lines(rows), kind="jsonl")
    assert [(fault.row, fault.column) for fault in faults] == [(2, "text"), (3, "text")]


def test_a_huge_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a", "b" * 10_000_000, "c"], "label": [0, 1, 1]}), path)
    with pytest.raises(DatasetInvalid) as caught:
        ingest(path, None, tmp_path / "out", train_format="parquet")
    [fault] = caught.value.faults
    assert (fault.row, fault.column) == (2, "text")
    assert "10,000,000 bytes" in fault.detail


def test_faults_before_the_file_breaks_off_are_not_lost(tmp_path: Path) -> None:
    train = "text,label\na,1\n,1\nb\n" + "b" * 10_000_000 + ",1\n"
    faults = refused(tmp_path, train)
    assert [fault.row for fault in faults] == [2, 3, 4]
    assert "longer than" in faults[2].detail


def test_more_text_than_the_cap_is_refused(tmp_path: Path) -> None:
    [fault] = refused(tmp_path, CSV, limits=Limits(max_text_bytes=50))
    assert "50 bytes of text" in fault.detail


@pytest.mark.parametrize(
    ("train", "detail"),
    [
        ("text,label\na,1\n", "fewer than 2 rows"),
        ("text,label\na,1\nb,1\nc,1\n", "every label of train is '1'"),
        ("text,label\na,1\nb,0\n", "too few rows"),
        ("text,label\n" + "".join(f"a,c{n}\n" for n in range(1001)), "is it the label column?"),
        ("text,label\n" + "".join(f"a,{n}\n" for n in range(1001)), "did you mean problem regress"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, train: str, detail: str) -> None:
    [fault] = refused(tmp_path, train)
    assert detail in fault.detail


def test_words_among_numbers_are_named_for_regression(tmp_path: Path) -> None:
    train = "text,label\na,0.5\nb,high\nc,2\n"
    [fault] = refused(tmp_path, train)
    assert (fault.row, fault.column) == (2, "label")
    assert "'high', not a number" in fault.detail
    [fault] = refused(tmp_path, CSV.replace("good", "1").replace("row 2,bad", "row 2,2"),
                      problem=Problem.REGRESSION)[:1]  # fmt: skip
    assert fault.row == 1


def test_integers_are_numbers_where_regression_is_asked_for(tmp_path: Path) -> None:
    train = "text,label\n" + "".join(f"a{n},{n}\n" for n in range(10))
    report = ingested(tmp_path, train, problem=Problem.REGRESSION)
    assert "problem" not in report.inferred
    assert report.labels == []


def test_a_class_only_in_validation_is_an_error_and_only_in_train_a_warning(
    tmp_path: Path,
) -> None:
    [fault] = refused(tmp_path, CSV, "text,label\na,good\nb,new\nc,new\n")
    assert (fault.file, fault.row, fault.column) == ("validation", 2, "label")
    report = ingested(tmp_path, CSV, "text,label\na,good\n")
    assert report.warnings == ["in train but not in validation, so not evaluated: 'bad'"]


def test_duplicates_leaks_and_conflicts_are_counted(tmp_path: Path) -> None:
    train = "text,label\na,1\na,1\na,0\nb,0\nc,1\n"
    report = ingested(tmp_path, train, "text,label\na,1\na,1\nd,0\nd,1\n")
    assert report.duplicates.within_train == 2
    assert report.duplicates.train_and_validation == 2
    assert report.duplicates.conflicting_labels == 2
    assert len(report.warnings) == 3


def test_unbalanced_and_single_classes_are_warned_of(tmp_path: Path) -> None:
    train = "text,label\n" + "".join(f"a{n},x\n" for n in range(40)) + "b,y\n"
    report = ingested(tmp_path, train)
    assert "unbalanced: 'x' has 36" in report.warnings[0]
    assert report.warnings[1] == "one row of train only: 'y'; first: train row 41"
    assert report.label_counts is not None
    assert report.label_counts["validation"] == {"x": 4, "y": 0}


def test_the_held_out_tenth_is_stratified_and_seeded(tmp_path: Path) -> None:
    train = "text,label\n" + "".join(f"a{n},{'x' if n % 5 else 'y'}\n" for n in range(200))
    one = ingested(tmp_path, train, out="one")
    two = ingested(tmp_path, train, out="two", seed=1)
    assert one.rows == {"train": 180, "validation": 20}
    assert one.label_counts is not None
    assert one.label_counts["validation"] == {"x": 16, "y": 4}
    assert one.fingerprint != two.fingerprint
    rows = stored(tmp_path / "one", "train") + stored(tmp_path / "one", "validation")
    assert sorted(row["text"] for row in rows) == sorted(f"a{n}" for n in range(200))


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    ingested(tmp_path, CSV)
    with pytest.raises(FileExistsError):
        ingested(tmp_path, CSV)


def test_no_heavy_library_is_imported() -> None:
    code = (
        "import sys, surgery.data.ingest.ingest, surgery.data.references, surgery.data.presets.tasks\n"
        "heavy = {'torch', 'transformers', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
