"""Rows with several labels: the forms they come in, what is reported, what is refused."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from surgery.data.ingest.ingest import ingest
from surgery.data.references import materialise, resolve_dataset
from surgery.errors import DatasetInvalid
from surgery.io.sources import Sources
from surgery.schemas.data.dataset import Columns, DatasetReport, HubDataset, LabelPair, UploadSpec
from surgery.schemas.enums import Problem
from tests.support.rows.ingested import Rows, ingested, lines, refused, stored

TAGS = ["ale", "oak", "rye"]
SETS = [["rye", "ale"], ["oak"], [], ["ale", "oak", "rye"], ["ale"]]


def sets(count: int = 20, **changes: Any) -> Rows:
    """Rows whose labels follow a cycle of five; ``changes`` are made to the third row."""
    rows: Rows = [{"text": f"text {n}", "labels": SETS[n % len(SETS)]} for n in range(count)]
    rows[2].update(changes)
    return rows


def as_csv(rows: Rows, separator: str) -> str:
    cells = [f'{row["text"]},"{separator.join(row["labels"])}"\n' for row in rows]
    return "text,labels\n" + "".join(cells)


def as_columns(rows: Rows) -> Rows:
    return [
        {"text": row["text"]} | {tag: int(tag in row["labels"]) for tag in TAGS} for row in rows
    ]


def warned(report: DatasetReport, code: str) -> str:
    [found] = [finding for finding in report.findings if finding.code == code]
    return found.detail


def test_lists_of_labels_are_stored_as_zeros_and_ones_and_counted(tmp_path: Path) -> None:
    train, validation = sets(), sets(5)
    report = ingested(tmp_path, train, validation)
    assert report.problem is Problem.MULTI_LABEL
    assert report.inferred == ["columns", "problem"]
    assert report.columns == Columns(text="text", label="labels")
    assert report.labels == TAGS
    counts = Counter(tag for row in train for tag in row["labels"])
    pairs = Counter(pair for row in train for pair in combinations(sorted(row["labels"]), 2))
    assert report.label_counts is not None
    assert report.label_counts["train"] == dict(counts)
    assert report.label_sets is not None
    assert report.label_sets.cardinality == {"train": 1.4, "validation": 1.4}
    assert report.label_sets.unlabelled == {"train": 4, "validation": 1}
    assert report.label_sets.pairs == [
        LabelPair(labels=("ale", "rye"), count=pairs["ale", "rye"]),
        LabelPair(labels=("ale", "oak"), count=pairs["ale", "oak"]),
        LabelPair(labels=("oak", "rye"), count=pairs["oak", "rye"]),
    ]
    assert [row["label"] for row in stored(tmp_path / "out")[:3]] == [
        [1, 0, 1], [0, 1, 0], [0, 0, 0],
    ]  # fmt: skip
    assert "without any label" in warned(report, "rows_without_labels")


@pytest.mark.parametrize("separator", [";", " | ", ","])
def test_every_form_of_the_same_rows_is_the_same_dataset(tmp_path: Path, separator: str) -> None:
    """Lists, texts with a separator, columns of zeros and ones, and Parquet."""
    lists = ingested(tmp_path, sets(), sets(5), out="lists")
    texts = ingested(
        tmp_path, as_csv(sets(), separator), as_strings(sets(5), separator),
        out="texts", label_separator=separator,
    )  # fmt: skip
    assert texts.label_sets is not None
    assert (texts.problem, texts.label_sets.separator) == (Problem.MULTI_LABEL, separator)
    columns = ingested(
        tmp_path, as_columns(sets()), as_columns(sets(5)),
        out="columns", columns=Columns(text="text", label=TAGS),
    )  # fmt: skip
    assert columns.inferred == ["problem"]
    for role, rows in (("t", sets()), ("v", sets(5))):
        schema = pa.schema([("text", pa.string()), ("labels", pa.list_(pa.string()))])
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / f"{role}.parquet")
    parquet = ingest(
        tmp_path / "t.parquet", tmp_path / "v.parquet", tmp_path / "p", train_format="parquet"
    )
    assert len({each.fingerprint for each in (lists, texts, columns, parquet)}) == 1


def as_strings(rows: Rows, separator: str) -> Rows:
    return [{**row, "labels": separator.join(row["labels"])} for row in rows]


def test_columns_of_a_csv_are_labels_in_the_order_named(tmp_path: Path) -> None:
    text = "text,b,a\n" + "".join(
        f"text {n},{n % 2},{'True' if n % 3 else '0.0'}\n" for n in range(9)
    )
    report = ingested(tmp_path, text, columns=Columns(text="text", label=["b", "a"]))
    assert report.labels == ["b", "a"]
    whole = stored(tmp_path / "out") + stored(tmp_path / "out", "validation")
    found = {row["text"]: row["label"] for row in whole}
    assert found == {f"text {n}": [n % 2, int(n % 3 > 0)] for n in range(9)}


def test_numbers_are_indices_of_the_labels_that_are_named(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t{n}", "labels": [n % 3, 3] if n % 2 else []} for n in range(20)]
    report = ingested(tmp_path, rows, labels=["a", "b", "c", "d"])
    assert report.labels == ["a", "b", "c", "d"]
    assert report.label_counts is not None
    assert sum(each["d"] for each in report.label_counts.values()) == 10
    rows[4]["labels"] = [4]
    fault = refused(tmp_path / "out", rows, labels=["a", "b", "c", "d"])
    assert "at place 0 (counted from 0) is '4', outside the 4 classes" in fault.detail


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["oak", None]}, "the label at place 1 (counted from 0) is missing"),
        ({"labels": ["oak", ""]}, "the label at place 1 (counted from 0) is empty"),
        ({"labels": ["oak", ["ale"]]}, "is a list"),
        ({"labels": ["oak", "oak"]}, "is 'oak' again; give each label of a row once"),
        ({"labels": [0, 1, 0]}, "'0' again; give each label of a row once, by its name or number"),
        ({"labels": None}, "is missing; the labels of a row are a list of them, or a text, and a"),
        ({"labels": {"a": 1}}, "of type dict"),
        ({"labels": "oak;ale"}, 'as in {"label_separator": ";"}'),
        ({"text": ""}, "the text is empty"),
    ],
)
def test_a_wrong_list_is_named_with_row_and_column(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    fault = refused(tmp_path, sets(**changes), sets(5))
    assert (fault.file, fault.row, fault.column) == ("train", 3, next(iter(changes)))
    assert words in fault.detail


def test_a_text_needs_a_separator_and_a_list_none(tmp_path: Path) -> None:
    csv = as_csv(sets(), "|")
    with pytest.raises(DatasetInvalid, match=r'give label_separator "\|"'):
        ingested(tmp_path, csv)  # rows without labels are no classes
    whole = ingested(
        tmp_path, as_csv(sets(labels=["ale"]), "|").replace('""', "oak"), out="classes"
    )
    assert whole.problem is Problem.CLASSIFICATION
    assert 'give label_separator "|"' in warned(whole, "separated_labels")
    options: dict[str, Any] = {"problem": Problem.MULTI_LABEL}
    (tmp_path / "bad").mkdir()
    with pytest.raises(Exception, match=r'"label_separator": "\|"'):
        ingested(tmp_path / "bad", csv, **options)
    fault = refused(
        tmp_path / "bad",
        csv.replace("oak", "oak||ale", 1),
        label_separator="|",
    )
    assert fault.row == 2
    assert "has nothing at label 1 (counted from 0)" in fault.detail


def test_a_separator_does_not_go_with_lists(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "labels": "a;b"} for n in range(5)]
    rows[2]["labels"] = ["a"]  # type: ignore[assignment]
    fault = refused(tmp_path, rows, label_separator=";")
    assert (fault.row, fault.column) == (3, "labels")
    assert "leave label_separator out" in fault.detail


def test_labels_with_spaces_between_them(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t{n}", "label": " a  b" if n % 2 else "b"} for n in range(20)]
    report = ingested(tmp_path, rows, label_separator=" ")
    assert report.labels == ["a", "b"]
    assert "labels of every row of train" in warned(report, "constant_label")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2, "is '2'; a column of a label has 1 where a row has it, and 0"),
        (-1, "-1 marks a hidden label"),
        ("", "is empty"),
        (None, "is missing"),
        ("yes", "is 'yes'"),
        ([1], "of type list"),
    ],
)
def test_a_wrong_mark_is_named_with_its_own_column(
    tmp_path: Path, value: object, words: str
) -> None:
    rows = as_columns(sets())
    rows[2]["oak"] = value
    fault = refused(tmp_path, rows, columns=Columns(text="text", label=TAGS))
    assert (fault.row, fault.column) == (3, "oak")
    assert words in fault.detail


def test_labels_as_a_whole_that_cannot_be_learned(tmp_path: Path) -> None:
    empty: Rows = [{"text": f"t{n}", "labels": []} for n in range(9)]
    assert "no row of train has a label" in refused(tmp_path, empty).detail
    one: Rows = [{"text": f"t{n}", "labels": ["a"] * (n % 2)} for n in range(9)]
    assert "only the label 'a'; two are needed" in refused(tmp_path, one).detail
    own: Rows = [{"text": f"t{n}", "labels": [f"id {n}"]} for n in range(12)]
    assert "each in one row: is this the column" in refused(tmp_path, own).detail
    many: Rows = [{"text": f"t{n}", "labels": [f"id {n}", "all"]} for n in range(1001)]
    assert "more than 1,000 labels" in refused(tmp_path, many).detail
    unseen = sets(5)
    unseen[0]["labels"] = ["Oak", "elm"]
    with pytest.raises(Exception, match="2 problems found") as caught:
        ingested(tmp_path, sets(), unseen)
    details = [fault.detail for fault in caught.value.faults]  # type: ignore[attr-defined]
    assert "train has 'oak'" in details[0]
    assert "'elm' of validation never occurs in train" in details[1]


def test_rows_of_one_label_each_are_told(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t{n}", "labels": [TAGS[n % 3]]} for n in range(20)]
    assert "problem classification" in warned(ingested(tmp_path, rows), "one_label_a_row")


def test_the_tenth_set_aside_leaves_every_label_in_train_and_has_its_share(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t{n}", "labels": ["common"]} for n in range(400)]
    for n in range(40):
        rows[10 * n]["labels"] = ["common", "rare"]
    for n in range(3):
        rows[10 * n + 1]["labels"] = [f"single {n}"]
    report = ingested(tmp_path, rows)
    assert report.label_counts is not None
    assert report.label_counts["validation"]["rare"] == 4
    assert all(report.label_counts["train"][f"single {n}"] == 1 for n in range(3))
    again = ingested(tmp_path, rows, seed=1, out="again")
    assert again.fingerprint != report.fingerprint


def test_the_same_text_with_other_labels_conflicts_whatever_their_order(tmp_path: Path) -> None:
    rows = sets()
    rows[5] = {"text": "text 0", "labels": ["ale", "rye"]}  # those of row 1, in another order
    assert ingested(tmp_path, rows, sets(5), out="a").duplicates.conflicting_labels == 0
    rows[5] = {"text": "text 0", "labels": ["ale"]}
    assert ingested(tmp_path, rows, sets(5), out="b").duplicates.conflicting_labels == 1


def test_a_reference_names_the_separator_or_the_columns(tmp_path: Path) -> None:
    folder = tmp_path / "mirror" / "datasets" / "org" / "tags"
    folder.mkdir(parents=True)
    rows = [a | b for a, b in zip(as_strings(sets(), ";"), as_columns(sets()), strict=True)]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(lines(rows))
    sources = Sources(mirrors=(tmp_path / "mirror",), cache=tmp_path / "cache", offline=True)
    common: dict[str, Any] = {"hub": "org/tags", "problem": "multi_label"}
    by_text = HubDataset(
        **common, columns=Columns(text="text", label="labels"), label_separator=";"
    )
    by_column = HubDataset(**common, columns=Columns(text="text", label=TAGS))
    reports = [
        materialise(resolve_dataset(each, sources), sources)[1] for each in (by_text, by_column)
    ]
    assert reports[0].fingerprint == reports[1].fingerprint
    known = resolve_dataset(by_column, sources)
    assert known.labels == tuple(TAGS)
    assert known.metrics[0] == "micro_f1"
    other = by_text.model_copy(update={"label_separator": "|"})
    fingerprints = {resolve_dataset(each, sources).fingerprint for each in (by_text, other)}
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"label_separator": ";", "problem": "classification"}, "is for problem multi_label"),
        ({"label_separator": ";", "columns": {"label": ["a", "b"]}}, "names several"),
        ({"label_separator": ""}, "at least 1 character"),
        ({"columns": {"label": ["a", "a"]}}, "label names a column twice"),
        ({"columns": {"label": ["a"]}}, "at least 2 items"),
    ],
)
def test_options_that_do_not_go_together(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        UploadSpec.model_validate(spec)
    whole = {"hub": "org/tags", "problem": "multi_label", "columns": {"text": "t", "label": "l"}}
    whole |= {name: {**whole.get(name, {}), **value} if name == "columns" else value
              for name, value in spec.items()}  # fmt: skip
    with pytest.raises(ValidationError, match=words):
        HubDataset.model_validate(whole)


def test_several_columns_of_labels_are_of_one_problem_and_name_the_labels(tmp_path: Path) -> None:
    rows, columns = as_columns(sets()), Columns(text="text", label=TAGS)
    fault = refused(tmp_path, rows, columns=columns, problem=Problem.REGRESSION)
    assert "columns.label names several columns" in fault.detail
    fault = refused(tmp_path, rows, columns=columns, labels=["a", "b", "c"])
    assert (fault.pointer, "leave labels out" in fault.detail) == ("/labels", True)
    gone = Columns(text="text", label=[*TAGS, "elm"])
    assert refused(tmp_path, rows, columns=gone).pointer == "/columns/label/3"


def test_a_list_of_labels_is_no_class(tmp_path: Path) -> None:
    rows: Rows = [{"text": f"t{n}", "labels": "ab"[n % 2]} for n in range(9)]
    rows[4]["labels"] = ["a", "b"]
    assert "problem multi_label" in refused(tmp_path, rows).detail
