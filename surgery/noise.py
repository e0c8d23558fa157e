"""What a metric is, and how much of it is the choice of the validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.metrics import measure
from surgery.terms import Problem

Array = np.ndarray[Any, Any]
RESAMPLES = 200  # the standard error is then known to some 5 %


@dataclass(frozen=True, eq=False)
class Measured:
    """A model's outputs beside what is true, as ``surgery.metrics.measure`` takes them."""

    logits: Array
    targets: Array
    problem: Problem
    tags: tuple[str, ...] = ()
    offsets: Array | None = None
    groups: Array | None = None
    earnings: Mapping[str, Array] | None = None

    def metrics(self, names: Sequence[str]) -> dict[str, float | None]:
        """By name; None where one is undefined."""
        return measure(
            self.logits, self.targets, self.problem, names, tags=self.tags, offsets=self.offsets,
            groups=self.groups, earnings=self.earnings or {},
        )  # fmt: skip

    def noise(self, name: str) -> float | None:
        """Standard error of a metric, from a seeded bootstrap over what was drawn together.

        Rows of one group, and the words of one row, stay together. None where the metric is not
        defined on most of the resamples (Efron & Tibshirani, 1993, chapter 6).
        """
        source = np.random.default_rng(0)
        units = self._units()
        count = len(self.targets) if units is None else len(units)
        found = [
            self._drawn(source.integers(0, count, count), units).metrics([name])[name]
            for _ in range(RESAMPLES)
        ]
        known = [value for value in found if value is not None]
        return float(np.std(known, ddof=1)) if 2 * len(known) > RESAMPLES else None

    def _units(self) -> list[Array] | None:
        """The places of what belongs together; None where each row is on its own."""
        if self.groups is not None:
            order = np.argsort(self.groups, kind="stable")
            starts = np.unique(self.groups[order], return_index=True)[1]
            return np.split(order, starts[1:])
        if self.offsets is not None:
            return np.split(np.arange(len(self.targets)), self.offsets[1:-1])
        return None

    def _drawn(self, drawn: Array, units: list[Array] | None) -> Measured:
        rows, offsets, groups = drawn, None, None
        if units is not None:
            parts = [units[place] for place in drawn]
            sizes = [len(part) for part in parts]
            rows = np.concatenate(parts)
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            groups = np.repeat(np.arange(len(parts)), sizes)
        return Measured(
            self.logits[rows], self.targets[rows], self.problem, self.tags,
            offsets if self.offsets is not None else None,
            groups if self.groups is not None else None,
            {name: earned[rows] for name, earned in (self.earnings or {}).items()},
        )  # fmt: skip
