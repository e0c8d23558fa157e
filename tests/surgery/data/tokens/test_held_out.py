"""Train rows that are set aside: a share of each label, and no row beside one that tells of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.held_out import held_out_rows, judged_on_train
from surgery.errors import DatasetInvalid
from surgery.schemas.enums import Problem


def task(rows: list[dict[str, Any]], problem: Problem = Problem.CLASSIFICATION) -> TaskData:
    table = Dataset.from_list(rows)
    return TaskData(table, table.select([0]), problem, ["no", "yes"], ("accuracy",), "sha256:0")


def texts(count: int, label: Any = lambda n: int(n % 10 < 3)) -> list[dict[str, Any]]:
    return [{"text": f"text {n}", "label": label(n)} for n in range(count)]


def sides_of(data: TaskData, keys: list[Any], share: float, seed: int) -> dict[Any, set[int]]:
    """For each key the sides that its rows are on."""
    found: dict[Any, set[int]] = {}
    for side, rows in enumerate(held_out_rows(data, share, seed)):
        for row in rows:
            found.setdefault(keys[row], set()).add(side)
    return found


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_label_has_the_share_and_every_row_one_side(share: float) -> None:
    rows = texts(200)
    fit, judged = held_out_rows(task(rows), share, 0)
    assert sorted(fit + judged) == list(range(200))
    counts = Counter(rows[row]["label"] for row in judged)
    assert counts == {1: 60 * share, 0: 140 * share}


def test_the_share_of_all_rows_is_set_aside_where_labels_are_rare() -> None:
    data = task(texts(20, label=lambda n: n // 2))  # a fifth of each label is less than half a row
    _, judged = held_out_rows(data, 0.2, 0)
    assert len(judged) == 4
    assert len({row // 2 for row in judged}) == 4


def test_the_seed_decides_which_rows() -> None:
    data = task(texts(200))
    assert held_out_rows(data, 0.2, 3) == held_out_rows(data, 0.2, 3)
    assert held_out_rows(data, 0.2, 3) != held_out_rows(data, 0.2, 4)
    counts = np.zeros(200)
    for seed in range(200):
        counts[held_out_rows(data, 0.2, seed)[1]] += 1
    # 200 draws with probability 1/5 each: mean 40, standard deviation 5.7.
    assert counts.min() > 15
    assert counts.max() < 65


def test_equal_rows_stay_together_but_for_case_and_spaces() -> None:
    rows = [
        {"text": f"{'  A' if copy else 'a'} row {n}", "label": n % 2}
        for n in range(60)
        for copy in (0, 1)
    ]
    keys = [row["text"].strip().lower() for row in rows]
    for seed in range(20):
        assert set(map(len, sides_of(task(rows), keys, 0.2, seed).values())) == {1}


def test_questions_about_one_passage_and_rows_of_one_group_stay_together() -> None:
    rows = [
        {"text": f"passage {n // 4}", "text_pair": f"answer {n}", "label": n % 2, "group": n // 8}
        for n in range(400)
    ]
    for seed in range(20):
        data = task(rows)
        by_group = sides_of(data, [row["group"] for row in rows], 0.2, seed)
        assert set(map(len, by_group.values())) == {1}
        ungrouped = data.train.remove_columns("group")
        data = TaskData(ungrouped, ungrouped, data.problem, data.labels, data.metrics)
        by_passage = sides_of(data, [row["text"] for row in rows], 0.2, seed)
        assert set(map(len, by_passage.values())) == {1}
        assert len(held_out_rows(data, 0.2, seed)[1]) in range(76, 85)


def test_links_through_a_third_row_count() -> None:
    """One group holds a passage, the passage holds another group."""
    rows = [
        {"text": f"passage {(n + 1) // 2}", "text_pair": f"{n}", "label": 0, "group": n // 2}
        for n in range(40)
    ]
    with pytest.raises(DatasetInvalid, match="leaves 1 parts"):
        held_out_rows(task(rows), 0.5, 0)


def test_a_prompt_that_all_rows_share_holds_nothing_together() -> None:
    rows = [{"text": "Is it true?", "text_pair": f"row {n}", "label": n % 2} for n in range(100)]
    assert len(held_out_rows(task(rows), 0.2, 0)[1]) == 20


def test_equal_second_texts_do_not_hold_rows_together() -> None:
    rows = [{"text": f"row {n}", "text_pair": "yes", "label": n % 2} for n in range(100)]
    assert len(held_out_rows(task(rows), 0.2, 0)[1]) == 20


@pytest.mark.parametrize(
    ("problem", "rows"),
    [
        (Problem.REGRESSION, texts(50, label=lambda n: n / 7)),
        (
            Problem.TOKEN_CLASSIFICATION,
            [{"tokens": ["a", str(n)], "label": [0, 1]} for n in range(50)],
        ),
        (
            Problem.MULTIPLE_CHOICE,
            [
                {"text": f"{n}", "text_pair": "", "choices": ["a", "b"], "label": n % 2}
                for n in range(50)
            ],
        ),
    ],
    ids=["regression", "tags", "choices"],
)
def test_every_problem(problem: Problem, rows: list[dict[str, Any]]) -> None:
    fit, judged = held_out_rows(task(rows, problem), 0.2, 0)
    assert (len(fit), len(judged)) == (40, 10)


@pytest.mark.parametrize("rows", [texts(1), [{"text": "a", "label": 0}] * 30])
def test_rows_that_cannot_be_divided_are_refused(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DatasetInvalid, match="give more rows"):
        held_out_rows(task(rows), 0.2, 0)


def test_the_dataset_without_its_validation_rows() -> None:
    data = task(texts(50))
    fit, judged = held_out_rows(data, 0.2, 5)
    other = judged_on_train(data, 0.2, 5)
    assert other.train["text"][:] == [f"text {n}" for n in fit]
    assert other.validation["text"][:] == [f"text {n}" for n in judged]
    assert other.fingerprint is None


def test_rare_labels_have_their_share_where_rows_have_several() -> None:
    rows = 200
    common = np.arange(rows) % 2
    rare = (np.arange(rows) % 20 == 1).astype(int)  # always with the common one
    table = Dataset.from_dict({
        "text": [f"t{n}" for n in range(rows)],
        "label": np.stack([common, rare], axis=1).tolist(),
    })  # fmt: skip
    data = TaskData(table, table, Problem.MULTI_LABEL, ["common", "rare"], ("micro_f1",))
    for seed in range(5):
        fit, judged = held_out_rows(data, 0.2, seed)
        assert sorted(fit + judged) == list(range(rows))
        assert (len(judged), int(rare[judged].sum()), int(common[judged].sum())) == (40, 2, 20)
