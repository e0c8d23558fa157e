"""Decide which run to continue or to begin next, when to stop, and what was found.

Nothing here trains: a search gives a function that does, and so do simulations. Every decision is a
function of the readings so far and of the seconds that they took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from surgery.training.search.decision.candidates import Candidate
from surgery.training.search.decision.surrogate import (
    Array,
    Posterior,
    Readings,
    Surrogate,
    earliness,
)
from surgery.training.search.decision.verdict import Finished, certain_best, spent_at

FRACTIONS = (0.125, 0.25, 0.5, 1.0)  # of a whole run's steps, after which a run may be judged
LEAST_GAIN = 1e-4  # expected gain of the metric below which the finalists are compared instead
SERIOUS = 0.05  # probability of being the best from which on a candidate is a rival
MOST_FINALISTS, MOST_REPEATS = 4, 6
FEWEST_FOR_LINE = 4  # readings through which a line of metric over loss is drawn

Stop = Literal["certain", "budget", "exhausted"]


class RunKey(NamedTuple):
    """A run: the number of its point (candidate · rates + rate) and of its seed, from 0."""

    point: int
    repeat: int


@dataclass(frozen=True)
class Piece:
    """A part of a run: train it up to this fraction of the steps, then judge it."""

    run: RunKey
    fraction: float


@dataclass(frozen=True)
class Reading:
    """What a piece gave. ``metric`` is None if it is not defined or the run diverged.

    ``noise`` is the metric's standard error from the rows that judge. ``seconds`` are those of the
    whole piece, ``train_seconds`` those of its steps; simulations may count other units. ``steps``
    are the run's optimizer steps so far.
    """

    piece: Piece
    metric: float | None
    loss: float
    noise: float
    seconds: float
    train_seconds: float
    steps: int = 0


@dataclass(frozen=True)
class Contest:
    """The candidates of a race, and what is known before it.

    ``work`` (C,) is the work of a candidate's whole run and ``judging`` (C,) that of judging it,
    in any unit; ``singles`` is the work of training each layer alone once on all rows. ``promise``
    (C,) is what scores say of the candidates, in standard deviations. ``first`` are the candidates
    that are tried first, each at the rate that suits its size. ``resolution`` is the smallest step
    of the metric.
    """

    candidates: Sequence[Candidate]
    rates: Sequence[float]
    depth: int
    work: Array
    judging: Array
    singles: float
    promise: Array
    first: Sequence[int]
    resolution: float

    def candidate_of(self, point: int) -> int:
        """The number of the candidate of a point."""
        return point // len(self.rates)

    @property
    def points(self) -> int:
        """The number of points: each candidate at each rate."""
        return len(self.candidates) * len(self.rates)


@dataclass(frozen=True)
class Budget:
    """The most seconds to spend: a number, or else a share of what training each layer costs."""

    seconds: float | None
    share: float


@dataclass(frozen=True)
class Outcome:
    """What a race found: the best point, and the winner if there is one beyond doubt."""

    point: int
    winner: int | None
    stopped: Stop
    looks: int
    posterior: Posterior
    p_best: Array  # of each candidate
    finalists: frozenset[int]
    spent: float
    allowed: float
    singles_seconds: float


Train = Callable[[Piece], Reading]
Resample = Callable[[Sequence[RunKey]], Array]
"""Maps runs to their metrics on resamples of the rows that judge, (R, B), as they are now."""


@dataclass
class Memory:
    """All that a race remembers. ``overhead`` is what was spent before the first run."""

    overhead: float = 0.0
    looks: int = 0
    readings: list[Reading] = field(default_factory=list)


@dataclass
class Race:
    """A race between candidates, which begins or goes on from what ``memory`` has."""

    contest: Contest
    budget: Budget
    confidence: float
    seed: int
    memory: Memory

    def __post_init__(self) -> None:
        of = self.contest
        self._surrogate = Surrogate(
            of.candidates, of.rates, of.depth, np.repeat(of.promise, len(of.rates))
        )
        self._groups = np.arange(of.points) // len(of.rates)

    def run(self, train: Train, resample: Resample) -> Outcome:
        """Train piece by piece until the race is decided."""
        while True:
            piece, stopped, winner = self._next(resample)
            if piece is None:
                assert stopped is not None
                return self._outcome(stopped, winner)
            self.memory.readings.append(train(piece))

    def _next(self, resample: Resample) -> tuple[Piece | None, Stop | None, int | None]:
        """The next piece, or else why the race is over and its winner."""
        for piece in self._first_pieces():
            if self._affords([piece]):
                return piece, None, None
        posterior, asked = self.judged()
        affordable = [
            (gain / self._cost(piece), gain, piece)
            for gain, piece in zip(posterior.gains.tolist(), asked, strict=True)
            if gain > 0 and self._affords([piece])
        ]
        best = max(affordable, key=lambda one: one[0], default=None)
        if best is not None and best[1] >= LEAST_GAIN:
            return best[2], None, None
        piece_to_confirm, stopped, winner = self._confirm(posterior, resample)
        if stopped == "budget" and best is not None:  # little is to be gained, but it is paid for
            return best[2], None, None
        return piece_to_confirm, stopped, winner

    def _first_pieces(self) -> Iterator[Piece]:
        latest = self.latest()
        for candidate in self.contest.first:
            run = RunKey(self._suited(candidate), 0)
            if run not in latest:
                yield Piece(run, FRACTIONS[0])

    def _suited(self, candidate: int) -> int:
        """The point of a candidate at the rate that suits its size best, before any reading."""
        each = len(self.contest.rates)
        own = self._surrogate.prior[candidate * each : (candidate + 1) * each]
        return candidate * each + int(own.argmax())

    def latest(self) -> dict[RunKey, Reading]:
        """The last reading of every run."""
        return {reading.piece.run: reading for reading in self.memory.readings}

    def judged(self) -> tuple[Posterior, list[Piece]]:
        """What all readings say, and the pieces that may come next."""
        latest = self.latest()
        numbers = {run: number for number, run in enumerate(latest)}
        read = _readings([(r.piece, numbers[r.piece.run], r.noise) for r in self.memory.readings])
        values = read_values(self.memory.readings)
        asked = list(self._askable(latest))
        noise = (
            float(np.mean([r.noise for r in self.memory.readings])) if self.memory.readings else 0.0
        )
        new = len(numbers)
        wanted = _readings(
            [(piece, numbers.get(piece.run, new + n), noise) for n, piece in enumerate(asked)]
        )
        return self._surrogate.posterior(read, values, wanted), asked

    def _askable(self, latest: Mapping[RunKey, Reading]) -> Iterator[Piece]:
        """Every longer piece of every unfinished run, and every first one of the other points."""
        for point in range(self.contest.points):
            run = RunKey(point, 0)
            before = latest[run].piece.fraction if run in latest else 0.0
            if run not in latest or latest[run].metric is not None:
                yield from (Piece(run, fraction) for fraction in FRACTIONS if fraction > before)

    def _confirm(
        self, posterior: Posterior, resample: Resample
    ) -> tuple[Piece | None, Stop | None, int | None]:
        """Finish and repeat the runs of all serious candidates, then compare them."""
        finalists = self._finalists(posterior)
        for repeats in range(2, MOST_REPEATS + 1):
            missing = [piece for point in finalists for piece in self._missing(point, repeats)]
            if missing:
                if self._affords(missing):
                    return missing[0], None, None
                return None, "budget", None
            if repeats > self.memory.looks + 1:  # this many runs have not been looked at yet
                winner = self._look(finalists, repeats, resample)
                if winner is not None:
                    return None, "certain", winner
        return None, "exhausted", None

    def _finalists(self, posterior: Posterior) -> list[int]:
        """The best point of each serious candidate, the most probable first."""
        p_best = posterior.p_best(self._groups, self.seed)
        tried = {
            self.contest.candidate_of(run.point)
            for run, reading in self.latest().items()
            if reading.metric is not None
        }
        order = sorted(tried, key=lambda candidate: -p_best[candidate])
        serious = [one for n, one in enumerate(order) if n < 2 or p_best[one] >= SERIOUS]
        return [self.best_point(posterior, one) for one in serious[:MOST_FINALISTS]]

    def _missing(self, point: int, repeats: int) -> list[Piece]:
        latest = self.latest()
        runs = [RunKey(point, repeat) for repeat in range(repeats)]
        return [
            Piece(run, 1.0) for run in runs if run not in latest or latest[run].piece.fraction < 1
        ]

    def _look(self, finalists: Sequence[int], repeats: int, resample: Resample) -> int | None:
        """Compare the finalists' finished runs; the number of the certain winner, or None."""
        self.memory.looks += 1
        latest, finished = self.latest(), {}
        for point in finalists:
            runs = [RunKey(point, repeat) for repeat in range(repeats)]
            metrics = [latest[run].metric for run in runs]
            if any(metric is None for metric in metrics):
                return None
            finished[str(point)] = Finished(np.array(metrics, dtype=float), resample(runs))
        tried = len({self.contest.candidate_of(run.point) for run in latest})
        alpha = spent_at(self.memory.looks, 1 - self.confidence)
        name = certain_best(finished, tried, alpha, self.contest.resolution)
        return None if name is None else self.contest.candidate_of(int(name))

    def best_point(self, posterior: Posterior, candidate: int | None = None) -> int:
        """The tried point with the highest expected metric, of one candidate or of all.

        One at which a run diverged is only chosen where all of them did.
        """
        failed = {r.piece.run.point for r in self.memory.readings if r.metric is None}
        tried = {run.point for run in self.latest()}
        if candidate is not None:
            tried = {point for point in tried if self.contest.candidate_of(point) == candidate}
        return max(sorted(tried - failed or tried), key=lambda point: posterior.mean[point])

    def _outcome(self, stopped: Stop, winner: int | None) -> Outcome:
        posterior, _ = self.judged()
        return Outcome(
            point=self.best_point(posterior, winner),
            winner=winner,
            stopped=stopped,
            looks=self.memory.looks,
            posterior=posterior,
            p_best=posterior.p_best(self._groups, self.seed),
            finalists=frozenset(map(self.contest.candidate_of, self._finalists(posterior))),
            spent=self.spent,
            allowed=self.allowed,
            singles_seconds=self.singles_seconds,
        )

    @property
    def spent(self) -> float:
        """Seconds of all finished pieces and of what came before them."""
        return self.memory.overhead + sum(reading.seconds for reading in self.memory.readings)

    @property
    def singles_seconds(self) -> float:
        """What training each layer alone once would take, at the measured pace."""
        return self.contest.singles * self._pace

    @property
    def allowed(self) -> float:
        """The most seconds that the race may spend, as far as the pace is known by now."""
        if self.budget.seconds is not None:
            return self.budget.seconds
        return self.budget.share * self.singles_seconds

    @property
    def _pace(self) -> float:
        """Seconds for a unit of work, over all steps so far; 0 before the first one."""
        work, before = 0.0, dict[RunKey, float]()
        for reading in self.memory.readings:
            run, fraction = reading.piece.run, reading.piece.fraction
            own = self.contest.work[self.contest.candidate_of(run.point)]
            work += float(own) * (fraction - before.get(run, 0.0))
            before[run] = fraction
        return (
            sum(reading.train_seconds for reading in self.memory.readings) / work if work else 0.0
        )

    def _cost(self, piece: Piece) -> float:
        """The work of a piece, with judging."""
        candidate, latest = self.contest.candidate_of(piece.run.point), self.latest()
        before = latest[piece.run].piece.fraction if piece.run in latest else 0.0
        steps = self.contest.work[candidate] * (piece.fraction - before)
        return float(steps + self.contest.judging[candidate])

    def _affords(self, pieces: Sequence[Piece]) -> bool:
        """Whether the budget allows these pieces too; it always allows the very first one."""
        if not self.memory.readings:
            return True
        return self.spent + self._pace * sum(map(self._cost, pieces)) <= self.allowed


def read_values(readings: Sequence[Reading]) -> Array:
    """What each reading says of the metric, (N,).

    Early in a run the loss tells more than a metric that counts right rows: both are averaged, the
    loss as the metric that it stands for on a line through all readings, with weight ½ after an
    eighth of the steps and 0 at the end, where a lower loss need not mean a better metric. A run
    that diverged is taken to be as bad as the worst of the others.
    """
    known = [(r.metric, r.loss) for r in readings if r.metric is not None]
    metrics, losses = np.array(known, dtype=np.float64).reshape(-1, 2).T
    worst = float(metrics.min(initial=math.inf)) if known else 0.0
    values = np.array([worst if r.metric is None else r.metric for r in readings])
    spread = float(losses.var()) if known else 0.0
    if len(known) < FEWEST_FOR_LINE or spread == 0:
        return values
    slope = float(((losses - losses.mean()) * (metrics - metrics.mean())).mean()) / spread
    if slope >= 0:
        return values
    weights = np.array(
        [0.0 if r.metric is None else 0.5 * earliness(r.piece.fraction) for r in readings]
    )
    own = np.array([losses.mean() if r.metric is None else r.loss for r in readings])
    fitted = metrics.mean() + slope * (own - losses.mean())
    combined: Array = (1 - weights) * values + weights * fitted
    return combined


def _readings(pieces: Sequence[tuple[Piece, int, float]]) -> Readings:
    return Readings(
        point=np.array([piece.run.point for piece, _, _ in pieces], dtype=np.int64),
        run=np.array([number for _, number, _ in pieces], dtype=np.int64),
        early=np.array([earliness(piece.fraction) for piece, _, _ in pieces], dtype=np.float64),
        noise=np.array([noise**2 for _, _, noise in pieces], dtype=np.float64),
    )
