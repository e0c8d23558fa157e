"""Raw rows in the shapes of the benchmark's data, and exactly what a model is to read of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from surgery.data import references
from surgery.data.ingest.inputs import CellError
from surgery.data.presets.formats import FORMATS, answer_f1, axg, multirc, record, wic, wsc
from surgery.data.presets.tasks import TASKS
from surgery.data.references import materialise, resolve_dataset
from surgery.errors import DatasetInvalid
from tests.support.rows.presets import AXG, MULTIRC, RECORD, SHAPES, WIC, WSC, Raw, put, varied


def test_wic_is_the_word_with_both_sentences() -> None:
    assert wic(WIC) == [
        {"text": "bank: She sat on the bank.", "text_pair": "Banks lend money.", "label": 0}
    ]


def test_wsc_marks_both_spans_and_keeps_the_case_of_the_text() -> None:
    assert wsc(WSC) == [
        {"text": "The crane lifted * the piano *, but # it # was too old.", "label": 0}
    ]


@pytest.mark.parametrize(
    ("text", "first", "second", "marked"),
    [
        ("Under his coat Tom slept", ("Tom", 3), ("his", 1), "Under # his # coat * Tom * slept"),
        ("Ann saw (her) cat", ("Ann", 0), ("her", 2), "* Ann * saw (# her #) cat"),
        ("the twins and their aunts", ("their aunts", 3), ("their", 3),
         "the twins and * # their # aunts *"),
        ("I use it", ("I", 0), ("it", 1), "* I * use # it #"),
        ("it fell on it", ("it", 3), ("it", 0), "# it # fell on * it *"),
        ("an ant and a plant", ("plant", 4), ("ant", 1), "an # ant # and a * plant *"),
        ("a  wide\troad bent it", ("wide road", 1), ("it", 4), "a  * wide\troad * bent # it #"),
    ],
)  # fmt: skip
def test_spans_are_found_at_their_place(
    text: str, first: tuple[str, int], second: tuple[str, int], marked: str
) -> None:
    row = {
        "text": text, "span1_text": first[0], "span1_index": first[1],
        "span2_text": second[0], "span2_index": second[1], "label": 1,
    }  # fmt: skip
    assert wsc(row) == [{"text": marked, "label": 1}]


def test_multirc_keeps_the_question_with_the_answer() -> None:
    [row] = multirc(MULTIRC)
    assert row == {
        "text": "Ada feeds two goats. They like hay.", "text_pair": "What do goats like? Hay",
        "label": 1, "group": 3 * 2**31 + 7,
    }  # fmt: skip
    other = multirc({**MULTIRC, "idx": {"paragraph": 7, "question": 3, "answer": 1}})
    assert other[0]["group"] != row["group"]


def test_record_is_a_row_a_candidate() -> None:
    group = 2 * 2**31 + 5
    text = RECORD["passage"]
    # Without the article the answer has two words; "Lund" is one of them: 2 x 1 / (1 + 2).
    assert record(RECORD) == [
        {"text": text, "text_pair": "Later Ida Berg sang for the mayor.", "label": 0,
         "group": group, "f1": 0.0, "exact_match": 0.0},
        {"text": text, "text_pair": "Later Lund sang for the mayor.", "label": 0,
         "group": group, "f1": 2 / 3, "exact_match": 0.0},
        {"text": text, "text_pair": "Later the Lund Choir sang for the mayor.", "label": 1,
         "group": group, "f1": 1.0, "exact_match": 1.0},
    ]  # fmt: skip


def test_winogender_rows_are_pairs_by_their_index() -> None:
    texts = {"text": "The cook paid the waiter before he left.", "text_pair": "The waiter left."}
    assert axg(AXG) == [{**texts, "label": 1, "group": 3}]
    assert [axg({**AXG, "idx": index})[0]["group"] for index in (0, 1, 2, 6, 8)] == [0, 0, 1, 3, 4]


def test_record_counts_the_best_of_several_answers_by_their_plain_words() -> None:
    rows = record({**RECORD, "entities": ["lund choir!", "Lund"], "answers": ["A Lund", "Choir"]})
    assert [(row["label"], row["f1"], row["exact_match"]) for row in rows] == [
        (0, 2 / 3, 0.0),
        (0, 1.0, 1.0),
    ]
    assert answer_f1("a the b", "b. an B") == 2 * 1 / 3, "an article is no word"
    assert answer_f1("x x y", "x z") == 2 * 1 / 5
    assert answer_f1("the", "the") == 0.0


@pytest.mark.parametrize(
    ("name", "raw", "column", "words"),
    [
        ("wic", {**WIC, "word": " "}, "word", "missing or empty"),
        ("wic", {**WIC, "sentence2": None}, "sentence2", "missing or empty"),
        ("wsc", {**WSC, "span1_text": "The harp"}, "span1_text", "'The harp' does not occur"),
        ("wsc", {**WSC, "span2_index": 60}, "span2_index", "the text has 10 words"),
        ("wsc", {**WSC, "span2_index": "6"}, "span2_index", "an index is an integer"),
        ("multirc", {**MULTIRC, "idx": 4}, "idx", "paragraph and question"),
        ("multirc", {**MULTIRC, "idx": {"paragraph": 1, "question": -1}}, "idx", "from 0"),
        ("axg", {**AXG, "idx": None}, "idx", "an index is an integer"),
        ("axg", {**AXG, "hypothesis": ""}, "hypothesis", "missing or empty"),
        ("record", {**RECORD, "query": "Later sang."}, "query", "no @placeholder"),
        ("record", {**RECORD, "answers": []}, "answers", "hidden answers"),
        ("record", {**RECORD, "entities": [1]}, "entities", "not a list of strings"),
    ],
)  # fmt: skip
def test_a_row_of_another_shape_is_refused(name: str, raw: Raw, column: str, words: str) -> None:
    with pytest.raises(CellError, match=words) as caught:
        FORMATS[name].rows(raw)
    assert caught.value.column == column


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_stored_is_what_the_format_makes(name: str, kind: str, tmp_path: Path) -> None:
    task, rows = TASKS[name], varied(name, 8)
    sources = put(tmp_path, name, rows, kind)
    source = resolve_dataset(name, sources)
    folder, report = materialise(source, sources)
    assert task.format is not None
    made = [row for raw in rows for row in task.format.rows(raw)]
    per = len(made) // 8
    stored = list(Dataset.from_file(str(folder / "validation.arrow")))
    assert stored == made[: 2 * per]
    assert report.rows == {"train": 6 * per, "validation": 2 * per}
    assert source.rows == ({"train": None, "validation": None} if per > 1 else report.rows)
    assert report.duplicates.within_train == 0


def test_the_fingerprint_follows_the_version_of_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = put(tmp_path, "super_glue/wic", varied("super_glue/wic", 8))
    before = resolve_dataset("super_glue/wic", sources)
    task = TASKS["super_glue/wic"]
    assert task.format is not None
    newer = replace(task, format=replace(task.format, version=task.format.version + 1))
    monkeypatch.setitem(references.TASKS, "super_glue/wic", newer)
    assert resolve_dataset("super_glue/wic", sources).fingerprint != before.fingerprint


def test_a_mirror_without_the_raw_columns_is_told_so_at_once(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in row if key != "word"} for row in varied("super_glue/wic", 6)]
    sources = put(tmp_path, "super_glue/wic", rows)
    with pytest.raises(DatasetInvalid, match="no column 'word'") as caught:
        resolve_dataset("super_glue/wic", sources)
    assert caught.value.faults[0].pointer == "/dataset"


def test_a_row_that_does_not_suit_is_named_with_its_file(tmp_path: Path) -> None:
    rows = varied("super_glue/record", 6)
    rows[4]["query"] = "No gap."
    sources = put(tmp_path, "super_glue/record", rows)
    with pytest.raises(DatasetInvalid) as caught:
        materialise(resolve_dataset("super_glue/record", sources), sources)
    [fault] = caught.value.faults
    assert (fault.file, fault.row, fault.column) == ("train.jsonl", 3, "query")


def test_equal_texts_of_two_questions_are_duplicates_with_another_fingerprint(
    tmp_path: Path,
) -> None:
    rows = varied("super_glue/multirc", 6)
    rows[5] = {**rows[4], "idx": {"paragraph": 9, "question": 9, "answer": 0}}
    sources = put(tmp_path, "super_glue/multirc", rows)
    _, first = materialise(resolve_dataset("super_glue/multirc", sources), sources)
    assert first.duplicates.within_train == 1
    rows[5]["idx"] = {"paragraph": 9, "question": 10, "answer": 0}
    sources = put(tmp_path, "super_glue/multirc", rows)
    _, second = materialise(resolve_dataset("super_glue/multirc", sources), sources)
    assert second.fingerprint != first.fingerprint
