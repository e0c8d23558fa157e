"""What a dataset's report says beside errors: each finding with its count and first rows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from surgery.data.ingest.findings.rows import LONG_WORDS
from surgery.data.ingest.repeats import find_repeats, repeated_rows, repeated_values
from surgery.data.ingest.spool import Spool
from surgery.schemas.data.dataset import Columns, DatasetReport, Duplicates, Finding
from surgery.schemas.enums import Problem
from tests.support.rows.ingested import Rows, ingested, refused


def rows(count: int, **last: Any) -> Rows:
    made: Rows = [{"text": f"text {n}", "label": n % 2} for n in range(count)]
    made[-1].update(last)
    return made


def finding(report: DatasetReport, code: str) -> Finding:
    [found] = [entry for entry in report.findings if entry.code == code]
    assert found.detail in report.warnings
    return found


def places(found: Finding) -> list[tuple[str, int, int | None]]:
    """File, row, and the row that it is like."""
    return [(e.file, e.row, e.same_as and e.same_as.row) for e in found.examples]


def test_a_clean_dataset_has_none(tmp_path: Path) -> None:
    held = [{"text": "b", "label": 0}, {"text": "c", "label": 1}]
    report = ingested(tmp_path, rows(20), held)
    assert report.findings == report.warnings == []


def test_repeated_leaking_and_contradicting_texts_are_named(tmp_path: Path) -> None:
    train = [*rows(4), {"text": "text 1", "label": 0}, {"text": "text 1", "label": 1}]
    report = ingested(
        tmp_path, train, [{"text": "new", "label": 1}, {"text": "text 2", "label": 0}],
        train_name="a.jsonl", validation_name="b.jsonl",
    )  # fmt: skip
    assert report.duplicates == Duplicates(
        within_train=2, train_and_validation=1, conflicting_labels=1
    )
    repeated = finding(report, "repeated_texts")
    assert (repeated.count, places(repeated)) == (2, [("a.jsonl", 5, 2)])
    assert "a.jsonl row 5 (as row 2)" in repeated.detail
    across = finding(report, "texts_in_both_splits")
    assert (across.count, places(across)) == (1, [("b.jsonl", 2, 3)])
    assert "b.jsonl row 2 (as a.jsonl row 3)" in across.detail
    noisy = finding(report, "conflicting_labels")
    assert (noisy.count, places(noisy)) == (1, [("a.jsonl", 5, 2)])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("small", [False, True], ids=["at once", "in shares and chunks"])
def test_repeats_are_those_of_a_plain_search(
    seed: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        monkeypatch.setattr("surgery.data.ingest.repeats.AT_ONCE", 16)
        monkeypatch.setattr("surgery.data.ingest.spool.CHUNK_ROWS", 8)
    chance = random.Random(seed)
    keys = [chance.randrange(60) for _ in range(200)]
    side = [chance.random() < 0.3 for _ in keys]
    labels = [chance.randrange(2) for _ in keys]
    hashes, coded, values = Spool("q", width=2), Spool("i"), Spool("q")
    for key, label in zip(keys, labels, strict=True):
        hashes.append_bytes(bytes([key % 7]) * 8 + key.to_bytes(8, "big"))
        coded.append(label)
        values.append(key)
    repeated = repeated_rows(hashes)
    assert list(repeated) == [keys.count(key) > 1 for key in keys]
    found = find_repeats(hashes, repeated, bytes(side), coded)
    within, across, conflicting = [], [], []
    for key in dict.fromkeys(keys):
        own = [n for n, other in enumerate(keys) if other == key]
        train = [n for n in own if not side[n]]
        held = [n for n in own if side[n]]
        other = [n for n in own if labels[n] != labels[own[0]]]
        within += [(train[1], train[0])] if len(train) > 1 else []
        across += [(held[0], train[0])] if held and train else []
        conflicting += [(other[0], own[0])] if other else []
    assert found.within_train == within[:5]
    assert found.across == across[:5]
    assert found.conflicting == conflicting[:5]
    assert found.counts.conflicting_labels == len(conflicting)
    count, pairs = repeated_values(values, 0, len(keys))
    assert count == len(keys) - len(set(keys))
    assert all(keys[a] == keys[b] and a > b for a, b in pairs)


@pytest.mark.parametrize("name", ["id", "idx", "ID"])
def test_repeated_ids_are_named_within_each_file(tmp_path: Path, name: str) -> None:
    train = [{name: n, **row} for n, row in enumerate(rows(10))]
    train[7][name] = 3
    train[8][name] = train[9][name] = None
    held = [{name: 0, "text": "b", "label": 0}, {name: 0, "text": "c", "label": 1}]
    report = ingested(tmp_path, train, held)
    found = [entry for entry in report.findings if entry.code == "repeated_ids"]
    assert [(entry.count, places(entry)) for entry in found] == [
        (1, [("train", 8, 4)]), (1, [("validation", 2, 1)]),
    ]  # fmt: skip
    assert repr(name) in found[0].detail


def test_a_column_that_is_the_label_is_no_id(tmp_path: Path) -> None:
    train = [{"text": f"a {n}", "index": n % 2} for n in range(20)]
    report = ingested(tmp_path, train, columns=Columns(text="text", label="index"))
    assert report.findings == []


def test_long_texts_are_named_and_the_longest_always(tmp_path: Path) -> None:
    train = rows(10)
    train[2]["text"] = "w " * (LONG_WORDS + 1)
    train[6]["text"] = "v " * (LONG_WORDS + 7)
    report = ingested(tmp_path, train, rows(2, text="new"))
    found = finding(report, "long_texts")
    assert (found.count, places(found)) == (2, [("train", 3, None), ("train", 7, None)])
    assert f"{LONG_WORDS + 7} words" in found.detail
    assert report.text_lengths.longest == LONG_WORDS + 7
    assert report.text_lengths.longest_at is not None
    assert report.text_lengths.longest_at.row == 7


def test_the_text_itself_is_never_told(tmp_path: Path) -> None:
    secret = "secret " * 500
    train = [*rows(10), {"text": secret, "label": 0}, {"text": secret, "label": 1}]
    assert "secret" not in ingested(tmp_path, train).model_dump_json()


def test_half_empty_pairs_are_counted_by_the_split_they_went_to(tmp_path: Path) -> None:
    train = [{"sentence1": f"a {n}", "sentence2": "", "label": n % 2} for n in range(20)]
    report = ingested(tmp_path, train)
    found = [entry for entry in report.findings if entry.code == "half_empty_texts"]
    assert [entry.count for entry in found] == [report.rows["train"], report.rows["validation"]]
    assert all(len(entry.examples) <= 5 for entry in found)


def test_labels_of_validation_alone_and_of_neither_are_told_apart(tmp_path: Path) -> None:
    held = [{"text": "b", "label": 0}, {"text": "c", "label": 2}]
    report = ingested(tmp_path, rows(10), held, labels=["no", "yes", "maybe", "never"])
    untrained = finding(report, "untrained_labels")
    assert places(untrained) == [("validation", 2, None)]
    assert "'maybe'" in untrained.detail
    assert "'never'" in finding(report, "unused_labels").detail
    assert "'yes'" in finding(report, "unevaluated_labels").detail


def test_a_class_of_one_row_is_named_with_the_row_that_stayed(tmp_path: Path) -> None:
    train = [*rows(20), {"text": "odd", "label": 7}]
    found = finding(ingested(tmp_path, train), "single_row_classes")
    assert (found.count, places(found)) == (1, [("train", 21, None)])


@pytest.mark.parametrize(("rare", "row"), [("n/a", 4), ("3", 4)])
def test_numbers_among_words_are_told(tmp_path: Path, rare: str, row: int) -> None:
    common = ["0", "1"] if rare == "n/a" else ["good", "bad"]
    train = "text,label\n" + "".join(
        f"text {n},{rare if n == row - 1 else common[n % 2]}\n" for n in range(20)
    )
    found = finding(ingested(tmp_path, train), "mixed_labels")
    assert (found.count, places(found)) == (1, [("train", row, None)])


def test_one_number_for_all_is_told(tmp_path: Path) -> None:
    train = [{"text": f"a {n}", "label": 0.5} for n in range(20)]
    report = ingested(tmp_path, train, problem=Problem.REGRESSION)
    assert finding(report, "constant_label").count == report.rows["train"]


def test_words_of_which_nothing_is_to_be_seen_are_told(tmp_path: Path) -> None:
    train = [{"tokens": ["a", f"b{n}"], "tags": ["O", "B-X"]} for n in range(20)]
    train[3]["tokens"] = ["\u200b", "\u00ad\ufe0f"]
    found = finding(ingested(tmp_path, train), "invisible_words")
    assert (found.count, places(found)) == (1, [("train", 4, None)])


def test_a_text_of_which_nothing_is_to_be_seen_is_empty(tmp_path: Path) -> None:
    pairs = [{"text": f"a {n}", "text_pair": "b", "label": n % 2} for n in range(20)]
    pairs[3]["text_pair"] = " \u200b\ufeff"
    assert finding(ingested(tmp_path, pairs, out="a"), "half_empty_texts").count == 1
    assert "the text is empty" in refused(tmp_path / "a", rows(20, text="\u2060")).detail
