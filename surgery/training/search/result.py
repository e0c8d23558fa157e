"""What a finished race says, in the terms of a search's result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from surgery.schemas.jobs.search import (
    Interval,
    SearchArm,
    SearchCost,
    SearchTrial,
)
from surgery.training.search.decision.race import Outcome, Race


def arms_of(
    race: Race, outcome: Outcome, names: Sequence[str], sizes: Sequence[int], epochs: float
) -> list[SearchArm]:
    """The entries of all candidates, best first: tried ones before others, by expected metric.

    ``names`` are those of the layers, bottom to top, ``sizes`` (C,) the trainable parameters of
    each candidate, and ``epochs`` is the length of a whole run.
    """
    of, each = race.contest, len(race.contest.rates)
    tried = {of.candidate_of(run.point) for run in race.latest()}
    best = {
        place: race.best_point(outcome.posterior, place)
        if place in tried
        else max(range(place * each, (place + 1) * each), key=lambda p: outcome.posterior.mean[p])
        for place in range(len(of.candidates))
    }
    chosen = of.candidate_of(outcome.point)
    order = sorted(
        best, key=lambda place: (place != chosen, place not in tried, -_mean(outcome, best[place]))
    )
    arms = []
    for rank, place in enumerate(order, 1):
        candidate, known = of.candidates[place], place in tried
        status = "finalist" if place in outcome.finalists else "dropped"
        arms.append(
            SearchArm(
                rank=rank,
                name=candidate.name,
                family=candidate.family,
                layers=[names[layer] for layer in candidate.layers],
                trainable_parameters=sizes[place],
                status=status if known else "not_tried",
                learning_rate=of.rates[best[place] % each] if known else None,
                expected=_expected(outcome, best[place], race.confidence) if known else None,
                p_best=float(outcome.p_best[place]),
                trials=_trials(race, place, epochs),
            )
        )
    return arms


def gain_over(race: Race, outcome: Outcome, layers: tuple[int, ...]) -> Interval | None:
    """How much better the choice is than this set at its best rate; None if it was not tried."""
    of = race.contest
    tried = {of.candidate_of(run.point) for run in race.latest()}
    places = [place for place, one in enumerate(of.candidates) if one.layers == layers]
    if not places or places[0] not in tried:
        return None
    other = race.best_point(outcome.posterior, places[0])
    mean, deviation = outcome.posterior.difference(outcome.point, other)
    return _interval(mean, deviation, race.confidence)


def cost_of(outcome: Outcome) -> SearchCost:
    """What was spent, beside what training each layer alone would take."""
    singles = outcome.singles_seconds
    return SearchCost(
        seconds=outcome.spent,
        budget_seconds=outcome.allowed,
        singles_seconds=singles,
        share=outcome.spent / singles if singles else 0.0,
    )


def _mean(outcome: Outcome, point: int) -> float:
    return float(outcome.posterior.mean[point])


def _expected(outcome: Outcome, point: int, confidence: float) -> Interval:
    variance = float(outcome.posterior.covariance[point, point])
    return _interval(_mean(outcome, point), math.sqrt(max(0.0, variance)), confidence)


def _interval(mean: float, deviation: float, confidence: float) -> Interval:
    half = NormalDist().inv_cdf((1 + confidence) / 2) * deviation
    return Interval(mean=mean, low=mean - half, high=mean + half)


def _trials(race: Race, place: int, epochs: float) -> list[SearchTrial]:
    """The runs of a candidate as they were last judged, in the order in which they began."""
    rates, seconds = race.contest.rates, dict[object, float]()
    for reading in race.memory.readings:
        run = reading.piece.run
        seconds[run] = seconds.get(run, 0.0) + reading.seconds
    return [
        SearchTrial(
            learning_rate=rates[run.point % len(rates)],
            seed=run.repeat,
            steps=reading.steps,
            epochs=reading.piece.fraction * epochs,
            metric=reading.metric,
            loss=reading.loss if math.isfinite(reading.loss) else None,
            seconds=seconds[run],
        )
        for run, reading in race.latest().items()
        if race.contest.candidate_of(run.point) == place
    ]
