"""What the study's cells say: gains of single layers, agreement of scores with them, regret.

An interval is the middle 95 % of resamples of whole tasks, and of seeds inside each task. Few tasks
make such intervals too narrow rather than too wide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.study.cells import ALL, HEAD, LORA, arm_of, best, chosen_by
from surgery.evaluation.statistics import spearman

RESAMPLES = 10_000
POINTS = 100  # metrics are told in points
Json = dict[str, Any]
ByTask = dict[str, list[float]]  # task → one number a seed


@dataclass(frozen=True)
class Run:
    """The finished cells of a task and seed: metrics in points by arm, scores by method."""

    task: str
    seed: int
    values: Mapping[str, float]
    scores: Mapping[str, Sequence[float]]

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.scores["fisher"])

    @property
    def singles(self) -> list[float] | None:
        """The metric with each layer alone, bottom to top; None unless all are finished."""
        found = [self.values.get(arm_of([layer])) for layer in range(self.layers)]
        known = [value for value in found if value is not None]
        return known if len(known) == self.layers else None

    @property
    def gains(self) -> list[float] | None:
        """What each layer alone gains over the head alone."""
        if self.singles is None or HEAD not in self.values:
            return None
        return [value - self.values[HEAD] for value in self.singles]

    @property
    def pairs(self) -> dict[str, float]:
        """The metric of each pair of layers that was trained."""
        return {arm: value for arm, value in self.values.items() if arm.count("+") == 1}

    def policies(self) -> dict[str, float]:
        """The metric of every policy whose cell is finished."""
        named = {policy: arm_of(pair) for policy, pair in chosen_by(self.scores, self.seed).items()}
        named |= {"head alone": HEAD, "all layers": ALL, "LoRA": LORA}
        found = {p: self.values[arm] for p, arm in named.items() if arm in self.values}
        if self.singles is not None:
            found["best single layer"] = max(self.singles)
        return found


def runs_of(lines: Iterable[Json]) -> list[Run]:
    """The runs that have a ranking, from the lines of the results."""
    values: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    scores = {}
    for line in lines:
        key = line["task"], line["seed"]
        if line["arm"] == "ranking":
            scores[key] = line["scores"]
        else:
            # A constant prediction has no correlation with anything.
            values[key][line["arm"]] = POINTS * (line["value"] or 0.0)
    return [Run(*key, values[key], scores[key]) for key in sorted(scores)]


def correlations(runs: Sequence[Run], method: str) -> ByTask:
    """Spearman's, of a method's scores with what each layer alone gains."""
    found = ((run.task, spearman(run.scores[method], run.gains)) for run in runs if run.gains)
    return _grouped(found)


def regrets(runs: Sequence[Run], method: str, k: int) -> ByTask:
    """Points between the best set of k layers that was trained and the one the method ranks first.

    For k = 2 only some pairs were trained: a lower bound of the true regret, and nothing where the
    method's own pair was not.
    """
    return _grouped((run.task, _regret(run, method, k)) for run in runs if run.gains)


def _regret(run: Run, method: str, k: int) -> float | None:
    assert run.singles is not None
    singles = {arm_of([layer]): value for layer, value in enumerate(run.singles)}
    known = singles if k == 1 else run.pairs
    chosen = known.get(arm_of(best(run.scores[method], k)))
    return None if chosen is None else max(known.values()) - chosen


def differences(runs: Sequence[Run], policy: str, other: str) -> ByTask:
    """The points by which one policy beats another, for each task and seed that has both."""
    found = []
    for run in runs:
        values = run.policies()
        both = policy in values and other in values
        found.append((run.task, values[policy] - values[other] if both else None))
    return _grouped(found)


def paired(first: ByTask, second: ByTask) -> ByTask:
    """The differences of two measures of the same runs, where both are known for all seeds."""
    return {
        task: [a - b for a, b in zip(first[task], second[task], strict=True)]
        for task in first
        if len(first[task]) == len(second.get(task, []))
    }


def _grouped(found: Iterable[tuple[str, float | None]]) -> ByTask:
    groups: ByTask = defaultdict(list)
    for task, value in found:
        if value is not None:
            groups[task].append(value)
    return dict(groups)


@dataclass(frozen=True)
class Estimate:
    """The mean over tasks of the mean over seeds, and its interval."""

    mean: float
    low: float
    high: float
    tasks: int
    runs: int


def estimate(groups: ByTask) -> Estimate | None:
    """None without a run; no interval is meant with fewer than two tasks: low and high are NaN."""
    if not groups:
        return None
    runs = sum(map(len, groups.values()))
    mean = float(np.mean([np.mean(values) for values in groups.values()]))
    if len(groups) < 2:
        return Estimate(mean, float("nan"), float("nan"), len(groups), runs)
    low, high = np.quantile(_resampled(list(groups.values())), (0.025, 0.975))
    return Estimate(mean, float(low), float(high), len(groups), runs)


def _resampled(groups: Sequence[Sequence[float]]) -> np.ndarray[Any, Any]:
    """The means of B resamples of tasks, each task with resampled seeds, (B,)."""
    generator = np.random.default_rng(0)
    shape = RESAMPLES, len(groups)
    tasks = generator.integers(len(groups), size=shape)
    means = np.empty(shape)
    for number, values in enumerate(groups):
        drawn = generator.integers(len(values), size=(*shape, len(values)))
        own = np.asarray(values)[drawn].mean(-1)
        means = np.where(tasks == number, own, means)
    return np.asarray(means.mean(1))
