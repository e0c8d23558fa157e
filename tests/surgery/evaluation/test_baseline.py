"""Constant predictions against slow twins: dummies of scikit-learn, every set of labels, L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor

from surgery.data.presets.tasks import metrics_for
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import TaskData
from surgery.evaluation.baseline import baseline_metrics, only_prediction
from surgery.evaluation.evaluate import Predictions
from surgery.evaluation.metrics import entity_scores
from surgery.schemas.enums import Problem
from surgery.training.optimizer import Loss, constant_loss
from tests.support.models.tokenizers import tokenizer_of
from tests.support.models.toys import NAMES, toy_data

Array = np.ndarray[Any, Any]
LENGTH = 32


def baseline_of(data: TaskData) -> tuple[dict[str, float | None], Array, Array]:
    """The baseline of a dataset, and the labels of its two splits."""
    train, validation = (
        encode_split(data, split, tokenizer_of("bert"), LENGTH) for split in ("train", "validation")
    )
    return baseline_metrics(train, validation, data), train.targets, validation.targets


def dummy(train: Array, rows: int, **strategy: Any) -> Array:
    """What scikit-learn's dummy predicts, which has never seen a text."""
    kind = DummyRegressor if train.dtype.kind == "f" else DummyClassifier
    found: Array = (
        kind(**strategy).fit(np.zeros((len(train), 1)), train).predict(np.zeros((rows, 1)))
    )
    return found


@pytest.mark.parametrize("problem", [Problem.CLASSIFICATION, Problem.MULTIPLE_CHOICE])
def test_the_most_frequent_class_is_the_baseline(problem: Problem) -> None:
    data = toy_data(40, 25, problem)
    found, train, labels = baseline_of(data)
    frequent = dummy(train, 25, strategy="most_frequent")
    assert found["accuracy"] == metrics.accuracy_score(labels, frequent)
    if problem is Problem.CLASSIFICATION:
        assert found["macro_f1"] == metrics.f1_score(labels, frequent, average="macro")
        positive = dummy(train, 25, strategy="constant", constant=1)
        assert found["f1"] == metrics.f1_score(labels, positive) > 0
        assert metrics.f1_score(labels, frequent, zero_division=0) <= found["f1"]


def test_the_matthews_correlation_of_a_constant_is_zero() -> None:
    data = toy_data(40, 25)
    found, *_ = baseline_of(TaskData(**{**vars(data), "metrics": ("matthews_correlation",)}))
    assert found == {"matthews_correlation": 0.0}


def test_the_mean_is_the_baseline_of_a_regression() -> None:
    found, train, labels = baseline_of(toy_data(40, 25, Problem.REGRESSION))
    mean = dummy(train, 25, strategy="mean")
    assert found == {
        "pearson": None,
        "spearman": None,
        "rmse": pytest.approx(metrics.root_mean_squared_error(labels, mean)),
        "mae": pytest.approx(metrics.mean_absolute_error(labels, mean)),
    }


@pytest.mark.parametrize("names", [["O", "B-X", "I-X"], NAMES[Problem.TOKEN_CLASSIFICATION]])
def test_the_most_frequent_tag_is_the_baseline(names: list[str]) -> None:
    data = toy_data(40, 25, Problem.TOKEN_CLASSIFICATION)
    own = tuple(metrics_for(data.problem, names))
    found, train, labels = baseline_of(TaskData(**{**vars(data), "labels": names, "metrics": own}))
    frequent = dummy(train, len(labels), strategy="most_frequent")
    assert found["accuracy"] == metrics.accuracy_score(labels, frequent)
    if "entity_f1" in own:
        rows = np.split(labels, np.cumsum([len(words) for words in data.validation["tokens"]])[:-1])
        tags = [[names[tag] for tag in row] for row in rows]
        constant = [[names[frequent[0]]] * len(row) for row in rows]
        expected = entity_scores(tags, constant)
        assert {name: found[name] for name in expected} == expected
    else:
        assert found["macro_f1"] == metrics.f1_score(
            labels, frequent, average="macro", zero_division=0
        )


SET_SCORES: dict[str, Callable[[Array, Array], float]] = {
    "micro_f1": lambda y, p: metrics.f1_score(y, p, average="micro", zero_division=0),
    "macro_f1": lambda y, p: metrics.f1_score(y, p, average="macro", zero_division=0),
    "subset_accuracy": metrics.accuracy_score,
}


def test_the_best_set_of_labels_is_the_baseline_of_several_labels_a_row() -> None:
    found, train, marks = baseline_of(toy_data(60, 30, Problem.MULTI_LABEL))
    for name, score in SET_SCORES.items():
        sets = [np.array(each) for each in product([0, 1], repeat=train.shape[1])]
        best = max(sets, key=lambda each: score(train, np.tile(each, (len(train), 1))))
        assert found[name] == pytest.approx(score(marks, np.tile(best, (len(marks), 1)))), name
    assert found["mean_average_precision"] == pytest.approx(marks.mean(0).mean())


LOSSES: dict[str, tuple[Problem, dict[str, Any]]] = {
    "classes": (Problem.CLASSIFICATION, {}),
    "weighted": (Problem.CLASSIFICATION, {"weights": torch.tensor([3.0, 0.5])}),
    "smoothed": (
        Problem.CLASSIFICATION,
        {"weights": torch.tensor([3.0, 0.5]), "smoothing": 0.2},
    ),
    "tags": (Problem.TOKEN_CLASSIFICATION, {"smoothing": 0.1}),
    "label sets": (Problem.MULTI_LABEL, {}),
    "weighted label sets": (
        Problem.MULTI_LABEL,
        {"weights": torch.tensor([3.0, 0.5, 2.0]), "smoothing": 0.1},
    ),
    "regression": (Problem.REGRESSION, {}),
    "choices": (Problem.MULTIPLE_CHOICE, {}),
}


@pytest.mark.parametrize("case", LOSSES)
def test_no_constant_has_a_lower_loss(case: str) -> None:
    problem, options = LOSSES[case]
    data = toy_data(40, 4, problem)
    train = encode_split(data, "train", tokenizer_of("bert"), LENGTH)
    loss, flat = Loss(problem, **options), problem
    if problem is Problem.TOKEN_CLASSIFICATION:
        flat = Problem.CLASSIFICATION
    twin, labels = Loss(flat, **options), torch.from_numpy(train.targets)
    # One score for all choices: a constant does not know their positions.
    outputs = 1 if problem is Problem.MULTIPLE_CHOICE else max(1, len(data.labels))
    logits = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    wide = train.choices if problem is Problem.MULTIPLE_CHOICE else outputs

    def mean() -> torch.Tensor:
        return twin.total(logits.expand(len(labels), wide), labels) / twin.weight(labels)

    def closure() -> float:
        optimizer.zero_grad()
        value = mean()
        value.backward()
        return float(value.detach())

    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")
    optimizer.step(closure)
    assert constant_loss(loss, train, len(data.labels)) == pytest.approx(
        float(mean().detach()), rel=1e-6
    )


def predicted(logits: Array, targets: Array, problem: Problem) -> str | None:
    return only_prediction(Predictions(logits, targets, problem), NAMES.get(problem, ["0", "1"]))


def test_the_same_prediction_for_all_rows_is_named() -> None:
    two = np.array([0, 1])
    classes = np.array([[0.0, 1.0], [0.2, 0.3]])
    assert predicted(classes, two, Problem.CLASSIFICATION) == "yes"
    assert predicted(classes[:, ::-1] * [[1], [-1]], two, Problem.CLASSIFICATION) is None
    assert predicted(classes, two, Problem.MULTIPLE_CHOICE) == "1"
    sets = np.array([[1.0, -1.0, 2.0], [3.0, -1.0, 1.0]])
    assert predicted(sets, sets > 0, Problem.MULTI_LABEL) == "a, o"
    assert predicted(-abs(sets), sets > 0, Problem.MULTI_LABEL) == "no label"
    assert predicted(sets * [[1], [-1]], sets > 0, Problem.MULTI_LABEL) is None


def test_numbers_that_hardly_differ_count_as_the_same() -> None:
    targets = np.linspace(0, 5, 20)
    near = np.linspace(1.094, 1.099, 20)[:, None]  # its correlation with the labels is 1
    assert predicted(near, targets, Problem.REGRESSION) == "1.094 to 1.099"
    assert predicted(np.full((20, 1), 1.25), targets, Problem.REGRESSION) == "1.25"
    assert predicted(targets[:, None] / 4, targets, Problem.REGRESSION) is None
