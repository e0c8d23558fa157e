"""Columns that not every row of JSON Lines has."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.data.ingest.table import HEAD_ROWS, SplitFile, Table
from surgery.data.references import materialise, resolve_dataset
from surgery.errors import DatasetInvalid
from surgery.io.sources import Sources
from surgery.schemas.data.dataset import Columns, HubDataset
from surgery.schemas.enums import Problem
from tests.support.rows.ingested import Rows, ingested, lines, refused, stored


def pairs(count: int, without: range = range(0)) -> Rows:
    """Pairs of sentences, some rows without the second."""
    rows: Rows = [
        {"sentence1": f"first {n}", "sentence2": f"second {n}", "label": n % 2}
        for n in range(count)
    ]
    for row in without:
        del rows[row]["sentence2"]
    return rows


@pytest.mark.parametrize("late", [1, HEAD_ROWS - 1, HEAD_ROWS, HEAD_ROWS + 50])
def test_a_column_that_begins_late_is_read(tmp_path: Path, late: int) -> None:
    report = ingested(tmp_path, pairs(late + 20, range(late)), pairs(2))
    assert report.columns == Columns(text="sentence1", text_pair="sentence2", label="label")
    [half] = [found for found in report.findings if found.code == "half_empty_texts"]
    assert (half.count, half.examples[0].row) == (late, 1)
    rows = stored(tmp_path / "out")
    assert [row["text_pair"] for row in rows[late - 1 : late + 1]] == ["", f"second {late}"]


@pytest.mark.parametrize("late", [1, HEAD_ROWS + 50])
def test_a_missing_column_and_an_empty_one_are_one_dataset(tmp_path: Path, late: int) -> None:
    lacking = ingested(tmp_path, pairs(late + 20, range(late)), out="lacking")
    null = [{"sentence2": None, **row} for row in pairs(late + 20, range(late))]
    assert ingested(tmp_path, null, out="null").fingerprint == lacking.fingerprint


@pytest.mark.parametrize("late", [1, HEAD_ROWS + 50])
def test_validation_needs_a_column_in_some_row_only(tmp_path: Path, late: int) -> None:
    report = ingested(tmp_path, pairs(20), pairs(late + 20, range(late)))
    assert report.rows["validation"] == late + 20
    bare = pairs(late + 20, range(late + 20))
    assert "has no column 'sentence2'" in refused(tmp_path / "out", pairs(20), bare).detail


def test_a_label_that_begins_late_is_missed_by_row(tmp_path: Path) -> None:
    rows = [{"text": f"a {n}"} for n in range(HEAD_ROWS + 50)]
    rows += [{"text": f"b {n}", "label": str(n % 2)} for n in range(20)]
    with pytest.raises(DatasetInvalid) as caught:
        ingested(tmp_path, rows)
    first = caught.value.faults[0]
    assert (first.row, first.column) == (1, "label")
    assert "missing" in first.detail


@pytest.mark.parametrize("before", [{}, {"choices": None}])
def test_lists_that_begin_late_make_it_another_problem(
    tmp_path: Path, before: dict[str, None]
) -> None:
    rows: Rows = [{"question": f"q {n}", **before, "label": n % 2} for n in range(HEAD_ROWS + 50)]
    rows += [{"question": "q", "choices": ["a", "b"], "label": n % 2} for n in range(20)]
    with pytest.raises(DatasetInvalid) as caught:
        ingested(tmp_path, rows)
    first = caught.value.faults[0]
    assert (first.row, first.column) == (1, "choices")


def test_a_column_of_validation_alone_is_told(tmp_path: Path) -> None:
    report = ingested(tmp_path, pairs(20, range(20)), pairs(2))
    assert report.columns.text_pair is None
    [found] = [found for found in report.findings if found.code == "unread_columns"]
    assert "'sentence2'" in found.detail


def test_a_mirror_may_lack_a_column_in_its_first_rows(tmp_path: Path) -> None:
    folder = tmp_path / "mirror/datasets/own/pairs"
    folder.mkdir(parents=True)
    late = HEAD_ROWS + 50
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(lines(pairs(late + 20, range(late))))
    sources = Sources((tmp_path / "mirror",), cache=tmp_path / "cache", offline=True)
    columns = Columns(text="sentence1", text_pair="sentence2", label="label")
    source = resolve_dataset(HubDataset(hub="own/pairs", columns=columns), sources)
    assert materialise(source, sources)[1].rows["train"] == late + 20
    other = columns.model_copy(update={"text_pair": "sentence3"})
    with pytest.raises(DatasetInvalid, match="no column 'sentence3'"):
        resolve_dataset(HubDataset(hub="own/pairs", columns=other), sources)


def test_what_is_kept_of_the_first_rows_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_text(lines([{f"c{n}": "x" * 100_000, "k" * 5000: 1} for n in range(1500)]))
    head = Table((SplitFile(path, "jsonl", "wide"),)).head(None)
    assert head.count == 1500
    assert len(head.cells) == 1000
    assert max(len(value) for value in head.cells.values() if isinstance(value, str)) == 200


def test_choices_are_counted_in_the_first_row(tmp_path: Path) -> None:
    rows: Rows = [{"choices": ["a", "b", "c", "d", "e"], "label": n % 5} for n in range(40)]
    assert ingested(tmp_path, rows, problem=Problem.MULTIPLE_CHOICE).labels == [*"01234"]
