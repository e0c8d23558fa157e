"""Metrics against hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.evaluation.metrics import entities, entity_scores, measure
from surgery.schemas.enums import Problem

TAGS = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER", [("PER", 0, 2)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("B-PER O I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
    ],
)
def test_entities_begin_and_end_as_conlleval_has_them(
    tags: str, found: list[tuple[str, int, int]]
) -> None:
    assert entities(tags.split()) == found


def test_an_entity_counts_only_with_its_type_and_both_ends_right() -> None:
    told = ["B-PER I-PER O B-LOC", "O B-LOC I-LOC O", "B-PER O"]
    said = ["B-PER I-PER O B-PER", "O B-LOC O O", "B-PER B-LOC"]
    scores = entity_scores([row.split() for row in told], [row.split() for row in said])
    # Four entities are told, five said; the first and the last row's person are right.
    assert scores == {"entity_precision": 2 / 5, "entity_recall": 2 / 4, "entity_f1": 4 / 9}
    assert set(entity_scores([["O"]], [["O"]]).values()) == {0.0}


def test_no_entity_goes_on_into_the_next_row() -> None:
    labels = np.array([2, 4, 2])  # B-PER I-PER | B-PER
    logits = np.eye(5)[[2, 4, 4]]  # B-PER I-PER | I-PER: begins one of its own
    names = ("entity_f1", "entity_precision", "entity_recall", "accuracy")
    values = measure(
        logits, labels, Problem.TOKEN_CLASSIFICATION, names, tags=TAGS, offsets=np.array([0, 2, 3])
    )
    assert list(values) == list(names)
    assert values == {
        "entity_f1": 1.0, "entity_precision": 1.0, "entity_recall": 1.0, "accuracy": 2 / 3,
    }  # fmt: skip
    merged = measure(
        logits, labels, Problem.TOKEN_CLASSIFICATION, names, tags=TAGS, offsets=np.array([0, 3])
    )
    assert merged["entity_f1"] == 0.0


def test_a_choice_is_right_where_its_logit_is_the_largest() -> None:
    logits = np.array([[0.1, 0.4, 0.2], [3.0, -1.0, 2.0]])
    found = measure(logits, np.array([1, 2]), Problem.MULTIPLE_CHOICE, ("accuracy",))
    assert found == {"accuracy": 0.5}


def test_multirc_counts_answers_together_and_questions_whole() -> None:
    # Three questions, their answers not next to each other; the last row is the one mistake.
    groups = np.array([5, 9, 5, 2, 9, 2])
    labels = np.array([1, 0, 0, 1, 1, 1])
    predicted = np.array([1, 0, 0, 1, 1, 0])
    found = measure(
        np.eye(2)[predicted], labels, Problem.CLASSIFICATION, ("f1a", "exact_match"), groups=groups
    )
    # Three right of three said and of four told: 2 x 3 / (3 + 4). Groups 5 and 9 are all right.
    assert found == {"f1a": 6 / 7, "exact_match": 2 / 3}


def test_record_is_graded_by_the_entity_of_the_highest_score() -> None:
    groups = np.array([1, 1, 0, 0, 0])
    # Of group 1 the second row wins by its margin, not by its logit; of group 0 the first of two.
    logits = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -5.0]])
    labels = np.array([1, 0, 1, 0, 0])
    earnings = {
        "f1": np.array([1.0, 0.5, 1.0, 0.0, 0.0]), "exact_match": np.array([1.0, 0, 1.0, 0, 0]),
    }  # fmt: skip
    found = measure(
        logits, labels, Problem.CLASSIFICATION, ("f1", "exact_match"),
        groups=groups, earnings=earnings,
    )  # fmt: skip
    assert found == {"f1": 0.75, "exact_match": 0.5}


def test_gender_parity_asks_only_for_equal_predictions() -> None:
    logits = np.eye(2)[[1, 1, 0, 1, 0, 0]]
    found = measure(
        logits, np.array([1, 1, 0, 0, 1, 1]), Problem.CLASSIFICATION,
        ("accuracy", "gender_parity"), groups=np.array([0, 0, 1, 1, 2, 2]),
    )  # fmt: skip
    assert found == {"accuracy": 0.5, "gender_parity": 2 / 3}
    odd = measure(
        logits, np.array([1, 1, 0, 0, 1, 1]), Problem.CLASSIFICATION,
        ("accuracy", "gender_parity"), groups=np.array([0, 1, 1, 2, 2, 3]),
    )  # fmt: skip
    assert odd == {"accuracy": 0.5, "gender_parity": None}, "two rows have no partner"


def test_an_undefined_correlation_is_none() -> None:
    flat = np.ones((4, 1))
    assert measure(flat, np.arange(4.0), Problem.REGRESSION, ("pearson",)) == {"pearson": None}
