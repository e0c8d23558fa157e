"""Simulated races: no winner where nothing differs, the best where one thing clearly does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from statistics import NormalDist

import numpy as np
import pytest

from surgery.training.search.decision.candidates import Candidate, candidates_of
from surgery.training.search.decision.race import (
    Budget,
    Contest,
    Memory,
    Outcome,
    Piece,
    Race,
    Reading,
    RunKey,
)
from surgery.training.search.decision.surrogate import (
    GROWTHS,
    SIGNALS,
    Array,
    Readings,
    Surrogate,
    earliness,
)
from surgery.training.search.decision.verdict import Finished, certain_best, spent_at

ROWS, DEPTH, RATE = 300, 3, 1e-3
Truth = Callable[[Candidate, float], float]


@dataclass
class World:
    """Runs that are right about a row with a probability, which seeds and time move.

    Rows are harder or easier for all runs alike, so that differences are paired. Costs are counted
    in units of work, so that a race repeats.
    """

    truth: Truth
    seed: int
    rates: Sequence[float] = (RATE,)
    depth: int = DEPTH
    first: Sequence[str] = ()  # all of them, unless named
    spread: float = 0.015  # of the metric between seeds
    growth: float = 0.1  # of the metric from an eighth of the steps to all
    runs: dict[RunKey, tuple[float, Array]] = field(default_factory=dict)
    right: dict[RunKey, Array] = field(default_factory=dict)
    fractions: dict[RunKey, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source = np.random.default_rng(self.seed)
        self.rows = self.source.standard_normal(ROWS)
        self.candidates = candidates_of(["single", "pairs", "all"], self.depth)

    @property
    def contest(self) -> Contest:
        work = [2.0 * (self.depth - c.lowest) + len(c.layers) for c in self.candidates]
        singles = sum(w for w, c in zip(work, self.candidates, strict=True) if len(c.layers) == 1)
        return Contest(
            candidates=self.candidates,
            rates=self.rates,
            depth=self.depth,
            work=np.array(work),
            judging=np.array([0.05 * (self.depth - c.lowest) for c in self.candidates]),
            singles=singles,
            promise=np.zeros(len(work)),
            first=[n for n, c in enumerate(self.candidates) if c.name in (self.first or [c.name])],
            resolution=1 / ROWS,
        )

    def train(self, piece: Piece) -> Reading:
        place, rate = divmod(piece.run.point, len(self.rates))
        candidate = self.candidates[place]
        if piece.run not in self.runs:
            luck = self.source.normal(0, self.spread)
            self.runs[piece.run] = (luck, self.source.standard_normal(ROWS))
        luck, own = self.runs[piece.run]
        value = self.truth(candidate, self.rates[rate]) + luck
        value -= self.growth * earliness(piece.fraction)
        hard = 0.8 * self.rows + 0.6 * own
        right = (hard < NormalDist().inv_cdf(min(0.98, max(0.02, value)))).astype(float)
        self.right[piece.run] = right
        before = self.fractions.get(piece.run, 0.0)
        self.fractions[piece.run] = piece.fraction
        work = float(self.contest.work[place]) * (piece.fraction - before)
        noise = float(right.std() / math.sqrt(ROWS))
        cost = work + float(self.contest.judging[place])
        return Reading(piece, float(right.mean()), 1 - value, noise, cost, work)

    def resample(self, runs: Sequence[RunKey]) -> Array:
        drawn = np.random.default_rng(0).integers(0, ROWS, (200, ROWS))
        return np.array([self.right[run][drawn].mean(1) for run in runs])


def raced(world: World, share: float, memory: Memory | None = None) -> tuple[Race, Outcome]:
    race = Race(world.contest, Budget(None, share), 0.95, world.seed, memory or Memory())
    return race, race.run(world.train, world.resample)


@pytest.mark.slow
def test_where_no_candidate_differs_none_is_named() -> None:
    """Seven equal candidates: a winner in at most 5 % of races, by far."""
    named = 0
    for seed in range(60):
        _, outcome = raced(World(lambda *_: 0.8, seed), 12)
        named += outcome.winner is not None
    assert named <= 3


def test_luck_that_a_run_keeps_is_not_taken_for_a_better_candidate() -> None:
    """Seeds that differ by 8 points: two runs of one candidate say little."""
    named = 0
    for seed in range(40):
        _, outcome = raced(World(lambda *_: 0.7, seed, spread=0.08), 12)
        named += outcome.winner is not None
    assert named <= 2


def test_a_clearly_best_candidate_is_found_and_named() -> None:
    def truth(candidate: Candidate, _: float) -> float:
        return 0.9 if candidate.name == "1" else 0.7

    found = [raced(World(truth, seed), 12)[1] for seed in range(20)]
    names = [World(truth, 0).candidates[outcome.point].name for outcome in found]
    assert names.count("1") >= 19
    assert sum(outcome.winner is not None for outcome in found) >= 18
    assert all(outcome.stopped == "certain" for outcome in found if outcome.winner is not None)


def test_a_best_rate_is_found_within_a_small_budget() -> None:
    """All layers learn at a tenth of the rate that suits a single layer, and best of all."""

    def truth(candidate: Candidate, rate: float) -> float:
        off = abs(math.log10(rate * len(candidate.layers)) + 3.2)
        return 0.8 + 0.02 * len(candidate.layers) - 0.15 * min(1.0, off)

    rates = (1e-4, 3e-4, 1e-3)
    regrets = []
    for seed in range(5):
        world = World(truth, seed, rates=rates, depth=6, first=["all", "4+5", "2+3"])
        race, outcome = raced(world, 0.6)
        place, rate = divmod(outcome.point, len(rates))
        best = max(truth(c, r) for c in world.candidates for r in rates)
        regrets.append(best - truth(world.candidates[place], rates[rate]))
        assert outcome.spent <= outcome.allowed
        assert outcome.stopped == "budget"
        assert race.spent == outcome.spent
    assert np.mean(regrets) < 0.04


def test_a_race_repeats_and_goes_on_from_its_readings() -> None:
    def truth(candidate: Candidate, _: float) -> float:
        return 0.75 + 0.03 * candidate.lowest

    first, outcome = raced(World(truth, 3), 3)
    again, _ = raced(World(truth, 3), 3)
    assert again.memory == first.memory
    pieces = [reading.piece for reading in first.memory.readings]
    for run in {piece.run for piece in pieces}:
        own = [piece.fraction for piece in pieces if piece.run == run]
        assert all(a < b for a, b in pairwise(own))
    for kept in (1, len(pieces) // 2, len(pieces) - 1):
        world = World(truth, 3)
        replayed = [world.train(piece) for piece in pieces[:kept]]
        assert replayed == first.memory.readings[:kept]
        race, resumed = raced(world, 3, Memory(readings=replayed))
        assert [reading.piece for reading in race.memory.readings] == pieces
        assert resumed.point == outcome.point


def test_a_budget_in_seconds_is_kept() -> None:
    world = World(lambda *_: 0.8, 0, depth=6)
    race = Race(world.contest, Budget(20.0, 0.35), 0.95, 0, Memory(overhead=5.0))
    outcome = race.run(world.train, world.resample)
    assert 5.0 < outcome.spent <= 20.0
    assert outcome.allowed == 20.0


def test_a_run_that_diverged_is_never_chosen_nor_continued() -> None:
    world = World(lambda *_: 0.8, 0)
    failing = RunKey(2, 0)

    def train(piece: Piece) -> Reading:
        reading = world.train(piece)
        if piece.run != failing:
            return reading
        return Reading(piece, None, math.inf, 0.06, reading.seconds, reading.train_seconds)

    race = Race(world.contest, Budget(None, 12), 0.95, 0, Memory())
    outcome = race.run(train, world.resample)
    assert outcome.point != failing.point
    assert len([r for r in race.memory.readings if r.piece.run == failing]) == 1


def finished(*values: float, rows: int = 400) -> Finished:
    """Runs with these shares of right rows; which rows is drawn anew for each."""
    source = np.random.default_rng(len(values))
    right = np.array([source.permutation(np.arange(rows) < round(v * rows)) for v in values])
    drawn = np.random.default_rng(0).integers(0, rows, (300, rows))
    return Finished(np.array(values), np.array([own[drawn].mean(1) for own in right]))


def test_a_verdict_needs_two_runs_each_and_a_difference_beyond_their_spread() -> None:
    far, near = finished(0.9, 0.91), finished(0.7, 0.71)
    assert certain_best({"far": far, "near": near}, 2, 0.05, 0.0) == "far"
    assert certain_best({"far": finished(0.9), "near": near}, 2, 0.05, 0.0) is None
    assert certain_best({"far": far}, 2, 0.05, 0.0) is None
    spread = {"one": finished(0.95, 0.75), "other": finished(0.9, 0.62)}
    assert certain_best(spread, 2, 0.05, 0.0) is None
    third = {"far": far, "near": near, "equal": finished(0.9, 0.905)}
    assert certain_best(third, 3, 0.05, 0.0) is None


def test_a_verdict_is_harder_among_more_candidates_and_looks() -> None:
    pair = {"one": finished(0.85, 0.86), "other": finished(0.79, 0.80)}
    levels = [0.2, 0.1, 0.05, 0.02, 0.01, 0.001]
    few = [certain_best(pair, 2, alpha, 0.0) for alpha in levels]
    many = [certain_best(pair, 40, alpha, 0.0) for alpha in levels]
    assert few.count("one") > many.count("one")
    assert sum(spent_at(look, 0.05) for look in range(1, 10_000)) == pytest.approx(0.05, rel=1e-3)


def likeliest(surrogate: Surrogate, read: Readings, values: Array) -> tuple[float, float]:
    sizes = product(SIGNALS, GROWTHS)
    return max(sizes, key=lambda scale: surrogate.likelihood(scale, read, values))


def test_the_surrogate_is_the_conditional_gaussian() -> None:
    """Against the joint distribution, conditioned one reading at a time."""
    candidates = candidates_of(["single", "all"], 3)
    surrogate = Surrogate(candidates, [1e-4, 1e-3], 3, np.zeros(len(candidates) * 2))
    read = Readings(
        np.array([0, 0, 5, 7]), np.array([0, 0, 1, 2]), np.array([1.0, 0.5, 0.5, 0.0]),
        np.array([1e-4, 2e-4, 1e-4, 3e-4]),
    )  # fmt: skip
    values = np.array([0.6, 0.65, 0.7, 0.8])
    asked = Readings(np.array([3]), np.array([3]), np.array([0.5]), np.array([1e-4]))
    posterior = surrogate.posterior(read, values, asked)
    signal = likeliest(surrogate, read, values)
    every = Readings(
        np.concatenate([read.point, np.arange(8)]), np.concatenate([read.run, np.full(8, -1)]),
        np.concatenate([read.early, np.zeros(8)]), np.concatenate([read.noise, np.zeros(8)]),
    )  # fmt: skip
    mean = surrogate.mean(signal, every, values)
    covariance = surrogate.covariance(signal, every, every) + np.diag(every.noise)
    for place, value in enumerate(values):
        column = covariance[:, place] / (covariance[place, place] + 1e-8)
        mean = mean + column * (value - mean[place])
        covariance = covariance - np.outer(column, covariance[place])
    assert posterior.mean == pytest.approx(mean[4:], abs=1e-6)
    assert posterior.covariance == pytest.approx(covariance[4:, 4:], abs=1e-6)
    assert posterior.gains[0] >= 0
    p_best = posterior.p_best(np.arange(8) // 2, 0)
    assert p_best.sum() == pytest.approx(1)


def test_the_gain_of_a_reading_is_that_of_a_simulation() -> None:
    candidates = candidates_of(["single"], 3)
    surrogate = Surrogate(candidates, [1e-3], 3, np.zeros(3))
    read = Readings(np.array([0, 1]), np.array([0, 1]), np.zeros(2), np.full(2, 1e-4))
    values = np.array([0.70, 0.71])
    asked = Readings(np.array([2]), np.array([2]), np.array([1 / 3]), np.full(1, 1e-4))
    before = surrogate.posterior(read, values, asked)
    signal = likeliest(surrogate, read, values)
    joint = Readings(*(np.concatenate(pair) for pair in zip(
        (read.point, read.run, read.early, read.noise),
        (asked.point, asked.run, asked.early, asked.noise), strict=True,
    )))  # fmt: skip
    inner = surrogate.covariance(signal, read, read) + np.diag(read.noise + 1e-8)
    across = surrogate.covariance(signal, asked, read)
    middle = surrogate.mean(signal, asked, values) + across @ np.linalg.solve(
        inner, values - surrogate.mean(signal, read, values)
    )
    own = surrogate.covariance(signal, asked, asked) + 1e-4
    own = own - across @ np.linalg.solve(inner, across.T)
    source, best = np.random.default_rng(0), []
    whole = surrogate.covariance(signal, joint, joint) + np.diag(joint.noise + 1e-8)
    wanted = Readings.expected(3)
    known = surrogate.covariance(signal, wanted, joint)
    for value in source.normal(middle[0], math.sqrt(own[0, 0]), 4000):
        seen = np.append(values, value) - np.append(
            surrogate.mean(signal, read, values), surrogate.mean(signal, asked, values)
        )
        after = surrogate.mean(signal, wanted, values) + known @ np.linalg.solve(whole, seen)
        best.append(after.max())
    assert before.gains[0] == pytest.approx(np.mean(best) - before.mean.max(), abs=0.002)
