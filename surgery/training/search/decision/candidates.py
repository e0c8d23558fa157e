"""The sets of layers that a search may try, and what cheap scores say about them before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from surgery.schemas.jobs.search import Family

PROMISE_WEIGHT = 0.5  # standard deviations of the metric for one of the scores: a hint, no more
MOST_CANDIDATES = 48  # those that scores put further down are not tried
TRUSTED = ("tangent", "fisher")  # the first of these that could be computed decides


@dataclass(frozen=True)
class Candidate:
    """A set of layers by their places from the bottom, in order, and the family it is of."""

    family: Family
    layers: tuple[int, ...]

    @property
    def name(self) -> str:
        """A short name: ``3``, ``2+5``, ``1-4`` for a run, or ``all``."""
        if self.family == "all":
            return "all"
        if self.family == "runs":
            return f"{self.layers[0]}-{self.layers[-1]}"
        return "+".join(map(str, self.layers))

    @property
    def lowest(self) -> int:
        """The number of layers below all of its own, whose outputs never change."""
        return self.layers[0]


def candidates_of(families: Sequence[Family], layers: int) -> list[Candidate]:
    """Every set of the given families for a model of ``layers`` layers, each once."""
    found = [*_singles(families, layers), *_pairs(families, layers), *_runs(families, layers)]
    if "all" in families:
        found = [one for one in found if len(one.layers) < layers]
        found.append(Candidate("all", tuple(range(layers))))
    return found


def _singles(families: Sequence[Family], layers: int) -> Iterator[Candidate]:
    if "single" in families:
        yield from (Candidate("single", (place,)) for place in range(layers))


def _pairs(families: Sequence[Family], layers: int) -> Iterator[Candidate]:
    if "pairs" in families:
        yield from (Candidate("pairs", pair) for pair in combinations(range(layers), 2))


def _runs(families: Sequence[Family], layers: int) -> Iterator[Candidate]:
    if "runs" in families:
        for size in range(3, layers):
            yield from (
                Candidate("runs", tuple(range(first, first + size)))
                for first in range(layers - size + 1)
            )


def promise_of(
    candidates: Sequence[Candidate], scores: Mapping[str, Sequence[float]]
) -> np.ndarray[Any, Any]:
    """For each candidate (C,) the mean over its layers of their standardised scores.

    ``scores`` are each method's, bottom to top.
    """
    method = next((name for name in TRUSTED if name in scores), None)
    if method is None:
        return np.zeros(len(candidates))
    own = np.asarray(scores[method], dtype=np.float64)
    spread = own.std()
    standard = (own - own.mean()) / spread if spread > 0 else np.zeros(len(own))
    return PROMISE_WEIGHT * np.array([standard[list(one.layers)].mean() for one in candidates])


def highest(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """The ``count`` layers with the highest scores, bottom to top; of equal ones the lower."""
    order = np.argsort(-np.asarray(scores), kind="stable")[:count]
    return tuple(sorted(order.tolist()))


def always_tried(
    candidates: Sequence[Candidate], depth: int, scores: Mapping[str, Sequence[float]]
) -> list[int]:
    """The candidates that are tried whatever the scores say, by number.

    All layers; and of pairs (or single layers, where no pairs are candidates) the last, the middle
    one, and the first choice of each trusted score.
    """
    size = min(2, depth) if any(one.family == "pairs" for one in candidates) else 1
    middle = (depth - size) // 2
    sets = [
        tuple(range(depth)),
        tuple(range(depth - size, depth)),
        tuple(range(middle, middle + size)),
        *(highest(scores[name], size) for name in TRUSTED if name in scores),
    ]
    places = {one.layers: place for place, one in enumerate(candidates)}
    return list(dict.fromkeys(places[one] for one in sets if one in places))


def most_promising(
    candidates: Sequence[Candidate], depth: int, scores: Mapping[str, Sequence[float]]
) -> list[int]:
    """The numbers of the candidates that a search considers, in order: at most MOST_CANDIDATES."""
    order = np.argsort(-promise_of(candidates, scores), kind="stable").tolist()
    always = always_tried(candidates, depth, scores)
    return sorted(list(dict.fromkeys([*always, *order]))[:MOST_CANDIDATES])
