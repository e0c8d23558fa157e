from __future__ import annotations

from typing import Any

import pytest

from surgery.data.ingest.labels import LabelColumn, LabelError, read_label
from surgery.schemas.enums import Problem


def column_of(values: list[Any], problem: Problem | None = None) -> LabelColumn:
    column = LabelColumn(problem)
    for row, value in enumerate(values, 1):
        column.add(value, "train", "train.csv", row)
    return column


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9, 2], ["2", "9", "10"]),
        (["10", "9", "-2"], ["-2", "9", "10"]),
        ([True, False], ["False", "True"]),
        (["b", "a", "10"], ["10", "a", "b"]),
        ([1.0, 0.0], ["0", "1"]),
        ([" x", "x ", "y"], ["x", "y"]),
    ],
)
def test_classes_are_sorted_and_mapped(values: list[Any], labels: list[str]) -> None:
    column = column_of(values)
    labelling = column.settle()
    assert labelling.problem is Problem.CLASSIFICATION
    assert list(labelling.names) == labels
    assert [labels[int(labelling.number(value))] for value in values] == [
        read_label(value)[0] for value in values
    ]
    assert column.faults(labelling, "label") == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["0.5", "1"], Problem.REGRESSION),
        ([1, 2.5], Problem.REGRESSION),
        (["1.0", "2.0"], Problem.CLASSIFICATION),
        (["1_0", "0x1"], Problem.CLASSIFICATION),
    ],
)
def test_a_fraction_means_regression(values: list[Any], problem: Problem) -> None:
    assert column_of(values).settle().problem is problem


def test_fractions_are_classes_where_classes_are_asked_for() -> None:
    column = column_of(["4.5", "10", "4.5"], Problem.CLASSIFICATION)
    assert column.settle().names == ("4.5", "10")


def test_a_number_of_another_class_is_no_label_of_regression() -> None:
    labelling = column_of([0.5, 1]).settle()
    assert labelling.number("2") == 2.0
    with pytest.raises(LabelError, match="not a number"):
        labelling.number(True)
