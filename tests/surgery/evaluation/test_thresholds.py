"""Metrics of label sets against hand-worked cases, and thresholds against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.data.presets.tasks import LABEL_SET_METRICS
from surgery.evaluation.evaluate import Predictions
from surgery.evaluation.metrics import measure_label_sets
from surgery.evaluation.thresholds import cross_fitted, decided, fit_thresholds, probabilities
from surgery.schemas.enums import Problem

MARKS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=np.int8)
LOGITS = np.array([[2.0, -1.0, -3.0], [-0.5, 3.0, -3.0], [-2.0, 1.0, -3.0], [-1.0, 2.0, 0.5]])


def f1(scores: np.ndarray, marks: np.ndarray, threshold: float) -> float:
    said = scores >= threshold
    right = int((said & (marks == 1)).sum())
    return 2 * right / max(1, int(said.sum()) + int(marks.sum()))


def test_metrics_of_label_sets_by_hand() -> None:
    found = measure_label_sets(LOGITS, MARKS, None, LABEL_SET_METRICS)
    # Said: {0}, {1}, {1}, {1, 2}. Label 0: 1 right of 1 said and 2 told; 1: 2 of 3 and 2; 2: 0.
    assert found["micro_f1"] == pytest.approx(2 * 3 / (5 + 4))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert found["subset_accuracy"] == 1 / 4
    # The rows in the order of each label's logits; label 2 is of no row, and left out.
    assert found["mean_average_precision"] == pytest.approx((1 + 1) / 2)


def test_thresholds_decide_all_but_average_precision() -> None:
    thresholds = np.array([0.3, 0.8, 0.7])
    found = measure_label_sets(LOGITS, MARKS, thresholds, LABEL_SET_METRICS)
    assert found == dict.fromkeys(LABEL_SET_METRICS, 1.0) | {"macro_f1": pytest.approx(2 / 3)}
    whole = Predictions(LOGITS, MARKS, Problem.MULTI_LABEL, thresholds=thresholds)
    assert whole.metrics(LABEL_SET_METRICS) == found
    assert whole.noise("subset_accuracy") == 0.0, "every resample has the same thresholds"


def test_rows_without_any_label_have_no_average_precision() -> None:
    found = measure_label_sets(LOGITS, np.zeros_like(MARKS), None, LABEL_SET_METRICS)
    assert found["mean_average_precision"] is None
    assert found["micro_f1"] == 0.0


@given(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_threshold_has_the_highest_f1_of_all(rows: list[tuple[int, bool]]) -> None:
    logits = np.array([[z / 2] for z, _ in rows])
    marks = np.array([[mark] for _, mark in rows], dtype=np.int8)
    [threshold] = fit_thresholds(logits, marks)
    scores, own = probabilities(logits)[:, 0], marks[:, 0]
    if not own.any():
        assert threshold == 0.5
        return
    best = max(f1(scores, own, each) for each in scores)
    assert f1(scores, own, threshold) == best
    assert 0 < threshold < 1


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken() -> None:
    logits = np.log([[1 / 9], [1 / 4], [4.0], [9.0]])  # 0.1, 0.2, 0.8 and 0.9
    [threshold] = fit_thresholds(logits, np.array([[0], [0], [1], [1]]))
    assert threshold == pytest.approx(0.5)
    [first] = fit_thresholds(logits, np.array([[0], [1], [0], [1]]))
    # 0.9 alone: 2/3; 0.2 and above: 4/5.
    assert first == pytest.approx(0.15)


def test_probabilities_of_any_logit() -> None:
    found = probabilities(np.array([-1e30, -2.0, 0.0, 1e30], dtype=np.float32))
    assert found.tolist() == pytest.approx([0.0, 1 / (1 + math.exp(2)), 0.5, 1.0])
    assert decided(np.zeros((1, 1)), np.array([0.5])).tolist() == [[1]]


def test_crossed_thresholds_of_a_row_come_from_the_other_half() -> None:
    source = np.random.default_rng(0)
    logits, marks = source.normal(size=(20, 2)), source.integers(0, 2, (20, 2))
    found = cross_fitted(logits, marks)
    assert found.shape == (20, 2)
    assert (found[::2] == fit_thresholds(logits[1::2], marks[1::2])).all()
    assert (found[1::2] == fit_thresholds(logits[::2], marks[::2])).all()
    assert (cross_fitted(logits[:1], marks[:1]) == 0.5).all(), "there is no other row"
    whole = Predictions(logits, marks, Problem.MULTI_LABEL, thresholds=found)
    drawn = whole.resampled("subset_accuracy", 3)
    rows = (decided(logits, found) == marks).all(1)
    picks = np.random.default_rng(0)
    expected = [rows[picks.integers(0, 20, 20)].mean() for _ in range(3)]
    assert drawn.tolist() == pytest.approx(expected)
