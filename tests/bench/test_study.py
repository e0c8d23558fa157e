"""The study: what is resumed, what its numbers mean, and what its page says is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.study.__main__ import Results
from bench.study.cells import HEAD, Setting, arms, as_json, best, chosen_by
from bench.study.report import METHODS, page
from bench.study.statistics import (
    Run,
    correlations,
    differences,
    estimate,
    paired,
    regrets,
    runs_of,
)

RISING = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
FALLING = RISING[::-1]
SETTING = as_json(Setting())


def run(task: str = "agreement", seed: int = 0, **values: float) -> Run:
    """Layer l alone is worth 10 l points more than the head."""
    singles = {str(layer): 50.0 + 10 * layer for layer in range(6)}
    scores = dict.fromkeys(METHODS, RISING) | {"tangent": FALLING}
    return Run(task, seed, {HEAD: 50.0, **singles, **values}, scores)


def test_scores_are_judged_by_what_single_layers_gain() -> None:
    runs = [run(), run("glue/rte")]
    assert correlations(runs, "fisher") == {"agreement": [1.0], "glue/rte": [1.0]}
    assert correlations(runs, "tangent") == {"agreement": [-1.0], "glue/rte": [-1.0]}
    assert regrets(runs, "fisher", 1) == {"agreement": [0.0], "glue/rte": [0.0]}
    assert regrets(runs, "tangent", 1)["agreement"] == [50.0]
    against = paired(correlations(runs, "tangent"), correlations(runs, "fisher"))
    assert against == {"agreement": [-2.0], "glue/rte": [-2.0]}


def test_the_regret_of_two_is_known_where_the_pair_was_trained() -> None:
    runs = [run(**{"4+5": 80.0, "0+1": 95.0})]
    assert regrets(runs, "fisher", 2) == {"agreement": [15.0]}
    assert regrets(runs, "tangent", 2) == {"agreement": [0.0]}
    assert regrets([run(**{"4+5": 80.0})], "tangent", 2) == {}


def test_a_run_without_all_single_layers_is_not_judged() -> None:
    whole = run()
    part = Run("glue/rte", 0, {HEAD: 50.0, "0": 51.0}, whole.scores)
    assert list(correlations([whole, part], "fisher")) == ["agreement"]
    assert "best single layer" not in part.policies()


def test_policies_are_compared_on_the_same_runs() -> None:
    runs = [run(all=70.0, **{"4+5": 72.0}), run("glue/rte", all=60.0)]
    assert differences(runs, "last-2", "all layers") == {"agreement": [2.0]}
    assert differences(runs, "head alone", "all layers") == {"agreement": [-20], "glue/rte": [-10]}


def test_an_estimate_weighs_tasks_alike_and_has_an_interval_from_two_on() -> None:
    found = estimate({"a": [0.0, 0.0, 0.0], "b": [1.0]})
    assert found is not None
    assert (found.mean, found.tasks, found.runs) == (0.5, 2, 4)
    assert (found.low, found.high) == (0.0, 1.0)
    assert estimate({}) is None
    alone = estimate({"a": [1.0, 3.0]})
    assert alone is not None
    assert alone.low != alone.low  # NaN


def test_the_same_layers_are_one_cell() -> None:
    scores = dict.fromkeys(METHODS, RISING)
    assert set(chosen_by(scores, 0).values()) >= {(4, 5), (0, 1)}
    names = arms(scores, 0)
    assert len(names) == len(set(names))
    assert best([1.0, 3.0, 3.0], 1) == (1,)


def lines() -> list[dict[str, Any]]:
    """One seed of one task, finished but for LoRA."""
    told = {"setting": SETTING, "task": "agreement", "seed": 0}
    scores = dict.fromkeys(METHODS, RISING)
    cell = {"metric": "accuracy", "train_rows": 2000, "validation_rows": 500}
    found = [{**told, "arm": "ranking", "scores": scores}]
    return found + [
        {**told, "arm": arm, "value": 0.5 + number / 100, **cell}
        for number, arm in enumerate(arms(scores, 0)[:-1])
    ]


def written(folder: Path) -> Path:
    """The file of those lines."""
    path = folder / "results.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines()) + "\n")
    return path


def test_a_study_goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text()[:-20])
    results = Results(path, SETTING)
    assert len(results.lines) == len(lines()) - 1
    results.add(("agreement", 0, "lora"), {"value": 0.9})
    again = Results(path, SETTING)
    assert again.lines.keys() == results.lines.keys()
    assert again.lines["agreement", 0, "lora"]["value"] == 0.9


def test_cells_of_another_setting_are_left_alone(tmp_path: Path) -> None:
    other = Results(written(tmp_path), as_json(Setting(rows=7)))
    assert (len(other.lines), other.others) == (0, len(lines()))
    with pytest.raises(ValueError, match="no ranking is finished"):
        page(other, ["agreement"], [0])


def test_the_page_says_what_is_missing(tmp_path: Path) -> None:
    results = Results(written(tmp_path), SETTING)
    text = page(results, ["agreement", "glue/rte"], [0, 1])
    cells = len(lines()) - 1
    assert f"| {cells} of {cells + 1} | none |" in text
    assert f"Finished fine-tunes: {cells}. Missing: 1 of" in text
    assert "all of 3 further pairs of task and seed" in text
    assert len(runs_of(results.lines.values())) == 1


def test_the_page_claims_nothing_of_all_layers_beyond_the_one_rate(tmp_path: Path) -> None:
    text = page(Results(written(tmp_path), SETTING), ["agreement"], [0])
    assert "Everything but LoRA was trained at one learning rate." in text
    assert "whether training a few layers is better than training all is not answered" in text
    assert "| minus all layers, at this rate | minus LoRA, at its rate |" in text
    assert "All layers reached" not in text  # one seed


def test_the_page_names_what_all_layers_reached_with_each_of_several_seeds(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    cells = lines() + [{**line, "seed": 1} for line in lines()]
    for cell in cells:
        if cell["arm"] == "all":
            cell["value"] = 0.978 if cell["seed"] == 0 else 0.5
    path.write_text("\n".join(map(json.dumps, cells)))
    text = page(Results(path, SETTING), ["agreement"], [0, 1])
    assert "All layers reached, on agreement 97.8 with seed 0, 50.0 with seed 1." in text
