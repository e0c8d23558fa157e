"""The standard error of a metric, beside the closed forms there are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from surgery.evaluation.evaluate import Predictions
from surgery.schemas.enums import Problem

ROWS = 400
TOLERANCE = 0.2  # 200 resamples leave 5 %, and the closed forms hold for many rows


def classified(right: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two classes that are right this often, and the labels."""
    source = np.random.default_rng(1)
    labels = source.integers(0, 2, ROWS)
    said = np.where(source.random(ROWS) < right, labels, 1 - labels)
    return np.eye(2)[said], labels


def test_accuracy_is_binomial() -> None:
    logits, labels = classified(0.8)
    found = Predictions(logits, labels, Problem.CLASSIFICATION)
    share = found.metrics(["accuracy"])["accuracy"]
    assert share is not None
    expected = math.sqrt(share * (1 - share) / ROWS)
    assert found.noise("accuracy") == pytest.approx(expected, rel=TOLERANCE)
    assert found.noise("accuracy") == found.noise("accuracy")


def test_a_correlation_has_fishers_error() -> None:
    """(1 - r²)/√(n - 3) for two normal variables (Fisher, 1915)."""
    source = np.random.default_rng(2)
    truth = source.normal(size=ROWS)
    said = 0.7 * truth + math.sqrt(1 - 0.49) * source.normal(size=ROWS)
    found = Predictions(said[:, None], truth, Problem.REGRESSION)
    r = found.metrics(["pearson"])["pearson"]
    assert r is not None
    assert found.noise("pearson") == pytest.approx((1 - r**2) / math.sqrt(ROWS - 3), rel=TOLERANCE)


def test_rows_of_one_group_are_drawn_together() -> None:
    """100 groups of four equal rows say no more than 100 rows."""
    logits, labels = classified(0.8)
    logits, labels = (np.repeat(each[:100], 4, axis=0) for each in (logits, labels))
    groups = np.repeat(np.arange(100), 4)
    found = Predictions(logits, labels, Problem.CLASSIFICATION, groups=groups)
    share = found.metrics(["accuracy"])["accuracy"]
    assert share is not None
    expected = math.sqrt(share * (1 - share) / 100)
    assert found.noise("exact_match") == pytest.approx(expected, rel=TOLERANCE)
    alone = Predictions(logits, labels, Problem.CLASSIFICATION).noise("accuracy")
    assert alone == pytest.approx(expected / 2, rel=TOLERANCE)


def test_the_words_of_a_row_are_drawn_together() -> None:
    """Rows of four words, all right or all wrong: as many entities as words, a quarter as sure."""
    tags = ("O", "B-X")
    right = np.random.default_rng(3).random(100) < 0.6
    labels = np.ones(400, dtype=int)
    logits = np.eye(2)[np.repeat(right.astype(int), 4)]
    offsets = np.arange(0, 401, 4)
    found = Predictions(logits, labels, Problem.TOKEN_CLASSIFICATION, tags, offsets)
    share = right.mean()
    assert found.metrics(["entity_recall"])["entity_recall"] == pytest.approx(share)
    expected = math.sqrt(share * (1 - share) / 100)
    assert found.noise("entity_recall") == pytest.approx(expected, rel=TOLERANCE)


def test_what_is_never_defined_has_no_noise() -> None:
    constant = Predictions(np.ones((20, 1)), np.arange(20.0), Problem.REGRESSION)
    assert constant.noise("pearson") is None
