"""Run the cells of one task and seed, in a process of their own."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from bench.study.cells import SEARCH, Place, Setting, arms, as_json, ranking, search, train
from bench.study.results import Json, Key, Results

RANKING = "ranking"


def run_task(
    task: str, seed: int, setting: Setting, place: Place, results: Path, threads: int
) -> None:
    """Run every cell of a task and seed that is not finished yet."""
    torch.set_num_threads(threads)
    finished = Results(results, as_json(setting))
    ranked = (task, seed, RANKING)
    if ranked not in finished.lines:
        began = time.perf_counter()
        finished.add(ranked, {"scores": ranking(task, seed, setting, place)})
        _tell(ranked, None, began)
    for arm in arms(finished.lines[ranked]["scores"], task):
        key = (task, seed, arm)
        if key not in finished.lines:
            began = time.perf_counter()
            finished.add(key, _run(key, setting, place, chosen_rate(finished, task, arm)))
            _tell(key, finished.lines[key]["value"], began)


def chosen_rate(finished: Results, task: str, arm: str) -> float | None:
    """The learning rate that another seed has chosen for this way to train, or None.

    A rate is chosen once for each task and way to train: most of the time would go there otherwise.
    """
    chose = [
        (seed, line["learning_rate"])
        for (of, seed, name), line in finished.lines.items()
        if (of, name) == (task, arm) and line.get("chose_rate")
    ]
    return min(chose)[1] if chose else None


def _run(key: Key, setting: Setting, place: Place, rate: float | None) -> Json:
    task, seed, arm = key
    if arm == SEARCH:
        return search(task, seed, setting, place)
    return {**train(task, seed, arm, setting, place, rate), "chose_rate": rate is None}


def _tell(key: Key, value: float | None, began: float) -> None:
    shown = "" if value is None else f"{value:.4f}"
    stamp = time.strftime("%H:%M:%S")
    print(stamp, *key, shown, f"{time.perf_counter() - began:.1f} s", flush=True)
