"""What the study's cells say: gains of layers, agreement of scores with them, regret, differences.

Every value is first averaged over the seeds of a task. An interval is the middle 95 % of resamples
of whole tasks, and of seeds inside each task. A p value is that of the exact test that flips the
signs of the tasks' means, corrected by Holm's method for all the policies (or scoring methods) that
are compared with the same one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from scipy import stats

from bench.study.cells import ALL, DECAY, GRADUAL, HEAD, LISA, LORA, SEARCH, arm_of, best, chosen_by
from surgery.evaluation.statistics import spearman

RESAMPLES = 10_000
POINTS = 100  # metrics are told in points
ERROR_RATE = 0.05
POWER = 0.8
RANDOM = "random-2"
NAMES = {
    "head alone": HEAD,
    "all layers": ALL,
    "LoRA": LORA,
    "search": SEARCH,
    "all layers, rates decaying downwards": DECAY,
    "all layers, unfreezing from the top": GRADUAL,
    "all layers, LISA": LISA,
}
Json = dict[str, Any]
ByTask = dict[str, list[float]]  # task → one number a seed
Pair = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """The finished cells of a task and seed: metrics in points by arm, scores by method."""

    task: str
    seed: int
    values: Mapping[str, float]
    scores: Mapping[str, Sequence[float]]
    cells: Mapping[str, Json] = field(default_factory=dict)

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
        """The metric of every policy whose cells are finished.

        Random pairs are one policy: the mean over the drawn ones.
        """
        pairs = chosen_by(dict(self.scores), self.task)
        named = {policy: arm_of(pair) for policy, pair in pairs.items()} | NAMES
        found = {p: self.values[arm] for p, arm in named.items() if arm in self.values}
        drawn = [found.pop(name) for name in list(found) if name.startswith(RANDOM)]
        if drawn:
            found[RANDOM] = float(np.mean(drawn))
        if self.singles is not None:
            found["best single layer"] = max(self.singles)
        return found


def runs_of(lines: Iterable[Json]) -> list[Run]:
    """The runs that have a ranking, from the lines of the results."""
    cells: dict[tuple[str, int], dict[str, Json]] = defaultdict(dict)
    scores = {}
    for line in lines:
        key = line["task"], line["seed"]
        if line["arm"] == "ranking":
            scores[key] = line["scores"]
        else:
            cells[key][line["arm"]] = line
    found = []
    for key in sorted(scores):
        # A constant prediction has no correlation with anything.
        values = {arm: POINTS * (line["value"] or 0.0) for arm, line in cells[key].items()}
        found.append(Run(*key, values, scores[key], cells[key]))
    return found


def correlations(runs: Sequence[Run], method: str) -> ByTask:
    """Spearman's, of a method's scores with what each layer alone gains."""
    known = [run for run in runs if run.gains and method in run.scores]
    return _grouped((run.task, spearman(run.scores[method], run.gains or [])) for run in known)


def regrets(runs: Sequence[Run], method: str, k: int) -> ByTask:
    """Points between the best set of k layers that was trained and the one the method ranks first.

    For k = 2 it is a lower bound of the true regret, since not every pair was trained, and nothing
    where the method's own pair was not.
    """
    known = [run for run in runs if run.gains and method in run.scores]
    return _grouped((run.task, _regret(run, method, k)) for run in known)


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
    mean = float(np.mean(_task_means(groups)))
    if len(groups) < 2:
        return Estimate(mean, float("nan"), float("nan"), len(groups), runs)
    low, high = np.quantile(_resampled(list(groups.values())), (0.025, 0.975))
    return Estimate(mean, float(low), float(high), len(groups), runs)


def _task_means(groups: ByTask) -> list[float]:
    return [float(np.mean(values)) for values in groups.values()]


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


def sign_flip_p_value(groups: ByTask) -> float:
    """Two-sided: how often the mean over tasks is as far from zero when tasks change their signs.

    Every combination of signs is tried; with T tasks no p value is below 2^(1 - T).
    """
    means = np.asarray(_task_means(groups))
    count = len(means)
    signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    reached = abs(means.sum()) - 1e-9
    return float(np.mean(np.abs(signs @ means) >= reached))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p values adjusted by Holm's method: below 0.05 means told apart, for all of them at once.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda each: p_values[each])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def detectable(groups: ByTask, tasks: int, compared: int) -> float | None:
    """The smallest true mean that ``tasks`` tasks would show, by the spread between these tasks.

    "Show": told apart from zero with probability `POWER` by a two-sided t test at `ERROR_RATE`
    divided by the number ``compared``. None with fewer than three tasks.
    """
    if len(groups) < 3:
        return None
    spread = float(np.std(_task_means(groups), ddof=1))
    freedom = tasks - 1
    needed = stats.t.ppf(1 - ERROR_RATE / (2 * compared), freedom) + stats.t.ppf(POWER, freedom)
    return float(needed * spread / sqrt(tasks))
