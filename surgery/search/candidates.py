"""The sets of layers that a search may try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from surgery.schemas.search import Family


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
