"""The work of training and judging candidates, in floating-point operations.

Only their proportions matter: the seconds for an operation are measured while a search runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgery.data.tokens.dataset import Encoded
from surgery.models.loading import LoadedModel
from surgery.training.costs.flops import TrainedSizes, forward_work, suffix_work
from surgery.training.search.boundaries import Boundaries
from surgery.training.search.decision.candidates import Candidate
from surgery.training.search.decision.surrogate import Array
from surgery.training.speed.throughput import row_length, shape_of


@dataclass(frozen=True)
class Work:
    """The operations of a candidate's whole run (C,), of judging it (C,), and of all singles."""

    training: Array
    judging: Array
    singles: float


def work_of(
    loaded: LoadedModel,
    encoded: Encoded,
    candidates: Sequence[Candidate],
    boundaries: Boundaries,
    *,
    passes: float,
    sides: tuple[int, int],
) -> Work:
    """The work of each candidate with ``sides`` rows to fit on and to judge by.

    ``passes`` is the number of epochs of a whole run. The work of ``singles`` is that of training
    each layer alone on all rows, with the same states stored, which each of these runs computes.
    """
    shape, row = shape_of(loaded), row_length(encoded)
    head = sum(parameter.numel() for parameter in loaded.head.values())

    def below(lowest: int) -> float:
        return 0.0 if boundaries.stores(lowest) else forward_work(shape, row, 0, lowest)

    def step(layers: Sequence[int]) -> float:
        trained = TrainedSizes({place: shape.blocks[place] for place in layers}, head)
        return suffix_work(shape, row, trained) + below(layers[0])

    fit, judged = sides
    depth = len(shape.blocks)
    stored = [place for place in range(depth) if boundaries.stores(place)]
    return Work(
        training=np.array([step(one.layers) * fit * passes for one in candidates]),
        judging=np.array(
            [
                (forward_work(shape, row, one.lowest) + below(one.lowest)) * judged
                for one in candidates
            ]
        ),
        singles=(fit + judged)
        * (
            passes * sum(step([place]) for place in range(depth))
            + sum(forward_work(shape, row, 0, place) for place in stored)
        ),
    )
