"""Rows that are given to a checkpoint's model."""

from __future__ import annotations

from typing import Any

import pytest

from surgery.checkpoints.rows import given_cells, kept_cells
from surgery.errors import RowsInvalid

Json = dict[str, Any]


def record(problem: str, columns: Json, dataset: str = "mine", **more: Any) -> Json:
    return {
        "problem": problem, "inputs": list(columns), "columns": columns,
        "dataset": {"name": dataset}, **more,
    }  # fmt: skip


PAIR = record("classification", {"text": "premise", "text_pair": "hypothesis"})
WORDS = record("token_classification", {"tokens": "words"})
CHOICES = record("multiple_choice", {"text": "scene", "choices": ["a", "b"]})
LISTED = record("multiple_choice", {"choices": "endings"})


def test_cells_are_stored_under_the_names_of_their_roles() -> None:
    rows = [{"premise": "It rained.", "hypothesis": None, "label": 1}]
    assert given_cells(PAIR, rows) == {"text": ["It rained."], "text_pair": [""]}
    assert kept_cells(PAIR, rows) == [{"premise": "It rained.", "hypothesis": None}]
    assert given_cells(WORDS, [{"words": ["in", "Rome"]}]) == {"tokens": [["in", "Rome"]]}
    assert given_cells(CHOICES, [{"scene": "x", "a": "y", "b": "z"}]) == {
        "text": ["x"], "choices": [["y", "z"]],
    }  # fmt: skip
    assert given_cells(LISTED, [{"endings": ["y", "z"]}]) == {"choices": [["y", "z"]]}


def test_a_record_without_columns_names_the_roles_themselves() -> None:
    early = {name: value for name, value in PAIR.items() if name != "columns"}
    row = {"text": "It rained.", "text_pair": "It was dry."}
    assert kept_cells(early, [row]) == [row]


def test_a_preset_of_questions_takes_their_marks() -> None:
    columns = {"text": "premise", "text_pair": "question", "choices": ["choice1", "choice2"]}
    copa = record("multiple_choice", columns, "super_glue/copa")
    row = {"premise": "It rained.", "question": "cause", "choice1": "sun", "choice2": "clouds"}
    assert given_cells(copa, [row])["text_pair"] == ["What was the CAUSE of this?"]


@pytest.mark.parametrize(
    ("known", "row", "column", "words"),
    [
        (PAIR, {"premise": "a"}, "hypothesis", "the columns premise, hypothesis of a row"),
        (PAIR, {"premise": "", "hypothesis": " "}, "premise", "the text is empty"),
        (WORDS, {"words": "in Rome"}, "words", "a list of strings is needed"),
        (WORDS, {"words": []}, "words", "the list of words is empty"),
        (WORDS, {"words": ["in", ""]}, "words", "word 1"),
        (CHOICES, {"scene": "x", "a": "y"}, "b", "is missing"),
        (CHOICES, {"scene": "x", "a": "y", "b": " "}, "b", "choice 1"),
        (LISTED, {"endings": ["y"]}, "endings", "1 choice; 2 to 64"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(
    known: Json, row: Json, column: str, words: str
) -> None:
    with pytest.raises(RowsInvalid) as refused:
        kept_cells(known, [row])
    [fault] = refused.value.faults
    assert (fault.pointer, fault.row, fault.column) == (f"/rows/0/{column}", 1, column)
    assert words in fault.detail


def test_rows_of_other_numbers_of_choices_are_named() -> None:
    rows = [{"endings": ["y", "z"]}, {"endings": ["y", "z", "w"]}]
    with pytest.raises(RowsInvalid, match="row 2, column endings: has 3 choices"):
        given_cells(LISTED, rows)
