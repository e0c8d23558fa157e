"""The study: what is resumed, what its numbers mean, and what its page says is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.study.cells import CHOOSERS, HEAD, SEARCH, Setting, arms, as_json, best, chosen_by
from bench.study.report import METHODS, page
from bench.study.results import Results
from bench.study.run import chosen_rate
from bench.study.statistics import (
    Run,
    correlations,
    detectable,
    differences,
    estimate,
    holm,
    paired,
    regrets,
    runs_of,
    sign_flip_p_value,
)
from bench.study.tasks import GAP, without_first_word

RISING = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
FALLING = RISING[::-1]
SETTING = as_json(Setting())
TASK = "agreement"


def run(task: str = TASK, seed: int = 0, **values: float) -> Run:
    """Layer l alone is worth 10 l points more than the head."""
    singles = {str(layer): 50.0 + 10 * layer for layer in range(6)}
    scores = dict.fromkeys(METHODS, RISING) | {"tangent": FALLING}
    return Run(task, seed, {HEAD: 50.0, **singles, **values}, scores)


def test_scores_are_judged_by_what_single_layers_gain() -> None:
    runs = [run(), run("glue/rte")]
    assert correlations(runs, "fisher") == {TASK: [1.0], "glue/rte": [1.0]}
    assert correlations(runs, "tangent") == {TASK: [-1.0], "glue/rte": [-1.0]}
    assert regrets(runs, "fisher", 1) == {TASK: [0.0], "glue/rte": [0.0]}
    assert regrets(runs, "tangent", 1)[TASK] == [50.0]
    against = paired(correlations(runs, "tangent"), correlations(runs, "fisher"))
    assert against == {TASK: [-2.0], "glue/rte": [-2.0]}


def test_the_regret_of_two_is_known_where_the_pair_was_trained() -> None:
    runs = [run(**{"4+5": 80.0, "0+1": 95.0})]
    assert regrets(runs, "fisher", 2) == {TASK: [15.0]}
    assert regrets(runs, "tangent", 2) == {TASK: [0.0]}
    assert regrets([run(**{"4+5": 80.0})], "tangent", 2) == {}


def test_a_run_without_all_single_layers_is_not_judged() -> None:
    whole = run()
    part = Run("glue/rte", 0, {HEAD: 50.0, "0": 51.0}, whole.scores)
    assert list(correlations([whole, part], "fisher")) == [TASK]
    assert "best single layer" not in part.policies()


def test_policies_are_compared_on_the_same_runs() -> None:
    runs = [run(all=70.0, **{"4+5": 72.0}), run("glue/rte", all=60.0)]
    assert differences(runs, "last-2", "all layers") == {TASK: [2.0]}
    assert differences(runs, "head alone", "all layers") == {TASK: [-20], "glue/rte": [-10]}


def test_random_pairs_are_one_policy() -> None:
    pairs = chosen_by(dict(run().scores), TASK)
    drawn = {"+".join(map(str, pair)) for name, pair in pairs.items() if name[0] == "r"}
    values = {arm: 60.0 + place for place, arm in enumerate(sorted(drawn))}
    assert len(drawn) == 5
    assert run(**values).policies()["random-2"] == 62.0


def test_an_estimate_weighs_tasks_alike_and_has_an_interval_from_two_on() -> None:
    found = estimate({"a": [0.0, 0.0, 0.0], "b": [1.0]})
    assert found is not None
    assert (found.mean, found.tasks, found.runs) == (0.5, 2, 4)
    assert (found.low, found.high) == (0.0, 1.0)
    assert estimate({}) is None
    alone = estimate({"a": [1.0, 3.0]})
    assert alone is not None
    assert alone.low != alone.low  # NaN


def test_the_p_value_flips_the_signs_of_tasks() -> None:
    groups = {str(task): [float(task + 1)] for task in range(8)}
    assert sign_flip_p_value(groups) == 2 / 2**8
    values = [1.3, -0.4, 2.1, 0.7, -0.2, 1.1]
    peer = stats.permutation_test(
        (np.asarray(values),), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    found = sign_flip_p_value({str(place): [value] for place, value in enumerate(values)})
    assert found == pytest.approx(peer.pvalue)


def test_p_values_are_adjusted_for_all_of_them() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_without_differences_any_policy_is_told_apart_in_at_most_one_study_of_twenty() -> None:
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        values = generator.normal(size=(12, 10))
        groups = {
            str(policy): {str(task): [value] for task, value in enumerate(own)}
            for policy, own in enumerate(values)
        }
        adjusted = holm({policy: sign_flip_p_value(own) for policy, own in groups.items()})
        wrong += min(adjusted.values()) < 0.05
    assert wrong / 300 <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_a_difference_that_can_be_seen_is_seen_four_times_of_five() -> None:
    generator = np.random.default_rng(0)
    pilot = {str(task): [value] for task, value in enumerate(generator.normal(size=2000))}
    least = detectable(pilot, tasks=11, compared=1)
    assert least is not None
    samples = generator.normal(loc=least, size=(4000, 11))
    seen = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert np.mean(seen) == pytest.approx(0.8, abs=0.03)
    assert detectable({"a": [1.0], "b": [2.0]}, tasks=11, compared=1) is None


def test_the_same_layers_are_one_cell() -> None:
    scores = dict.fromkeys(METHODS, RISING)
    assert set(chosen_by(scores, TASK).values()) >= {(4, 5), (0, 1), (2, 3)}
    names = arms(scores, TASK)
    assert len(names) == len(set(names))
    assert names[-1] == SEARCH
    assert best([1.0, 3.0, 3.0], 1) == (1,)


def test_only_the_pairs_that_a_policy_chooses_are_trained() -> None:
    scores = {method: list(map(float, range(12))) for method in CHOOSERS}
    chosen = {"+".join(map(str, pair)) for pair in chosen_by(scores, TASK).values()}
    assert {name for name in arms(scores, TASK) if "+" in name} == chosen


def test_the_first_word_of_a_question_is_its_class() -> None:
    questions = [f"How many letters did clerk {n} send?" for n in range(5)]
    questions += ["How did it end?", "What was it?", "Whose was it?", "The answer is what?"]
    found = without_first_word(questions, per_class=3)
    assert sorted(word for _, word in found) == ["how", *["how many"] * 3, "what"]
    assert (f"{GAP} did it end?", "how") in found


def test_a_rate_is_chosen_once_for_all_seeds(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl", SETTING)
    assert chosen_rate(results, TASK, "2") is None
    for seed, rate, chose in ((1, 3e-4, True), (0, 1e-4, True), (2, 1e-3, False)):
        results.add((TASK, seed, "2"), {"learning_rate": rate, "chose_rate": chose})
    assert chosen_rate(results, TASK, "2") == 1e-4
    assert chosen_rate(results, TASK, "3") is None
    assert chosen_rate(results, "glue/rte", "2") is None


def lines(task: str = TASK, seed: int = 0) -> list[dict[str, Any]]:
    """One seed of one task, finished but for the search."""
    told = {"setting": SETTING, "task": task, "seed": seed}
    scores = dict.fromkeys(METHODS, RISING)
    cell = {"metric": "accuracy", "train_rows": 1000, "validation_rows": 500, "learning_rate": 1e-4}
    found = [{**told, "arm": "ranking", "scores": scores}]
    return found + [
        {**told, "arm": arm, "value": 0.5 + number / 100, **cell}
        for number, arm in enumerate(arms(scores, task)[:-1])
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
    results.add((TASK, 0, SEARCH), {"value": 0.9})
    again = Results(path, SETTING)
    assert again.lines.keys() == results.lines.keys()
    assert again.lines[TASK, 0, SEARCH]["value"] == 0.9


def test_cells_of_another_setting_are_left_alone(tmp_path: Path) -> None:
    other = Results(written(tmp_path), as_json(Setting(rows=7)))
    assert other.lines == {}
    with pytest.raises(ValueError, match="no ranking is finished"):
        page([other], [TASK], [0], [])


def test_the_page_says_what_is_missing(tmp_path: Path) -> None:
    results = Results(written(tmp_path), SETTING)
    text = page([results], [TASK, "glue/rte"], [0, 1], [])
    cells = len(lines()) - 1
    assert f"| {cells} of {cells + 1} | none |" in text
    assert f"Finished fine-tunes: {cells}. Missing: 1 of" in text
    assert "all of 3 further pairs of task and seed" in text
    assert len(runs_of(results.lines.values())) == 1


def test_the_page_tells_rates_searches_and_what_could_be_seen(tmp_path: Path) -> None:
    results = Results(written(tmp_path), SETTING)
    cell = {**lines()[1], "value": 0.93, "layers": [1, 2], "search": {"share": 0.31}}
    results.lines[TASK, 0, SEARCH] = cell | {"arm": SEARCH}
    pilot = [run(task, all=70.0 + n**2, **{"4+5": 72.0}) for n, task in enumerate("abcd")]
    text = page([results], [TASK], [0], pilot)
    assert "| last-2 and all layers | 4 | " in text
    some = sum(arm[0].isdigit() for arm in arms(dict.fromkeys(METHODS, RISING), TASK)) + 1
    assert f"| some layers | 0.0001: {some}, 0.0003: 0, 0.001: 0 | {some} |" in text
    assert f"| {TASK} | 0 | 1+2 | 0.0001 | 93.0 | 31% |" in text
    assert "| search | 93.0 |" in text
