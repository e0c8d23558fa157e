"""Sketches of weights' gradients, from which the kernels of many samples are computed.

Of a Linear with inputs A_i (T × d) and gradients G_i (T × p) at its outputs, the gradient of the
weight is J_i = G_iᵀ A_i, and

    φ_i = (P G_iᵀ)(A_i Q) = P J_i Q,   P (k × p) and Q (d × k) fixed, Gaussian, of variance 1/k,

is a sketch whose inner products are those of the J_i in expectation, at k (p + d) a token. J_i is
never formed. Related: Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023; Choe et
al., "What is Your Data Worth to GPT?" (LoGra), 2024.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from surgery.accumulators import Accumulator, Kept, formed, wide

SKETCH = 48  # rows and columns: a norm is off by a quarter at rank one, by less at higher ranks


class SketchAccumulator(Accumulator):
    """Sketches φ = P J Q of the weights' gradients along each direction of the outputs.

    ``sketches``: parameter name → (directions, samples, numbers of a sketch). A side of a weight
    that is no longer than ``size`` is not projected: the sketch of a small one is J itself. P and Q
    depend on the seed and the parameter's name alone. Samples keep the order they come in.
    """

    def __init__(
        self,
        scored: Mapping[str, nn.Parameter],
        directions: int,
        samples: int,
        seed: int,
        size: int = SKETCH,
    ) -> None:
        super().__init__(scored)
        self._projections = {name: projections(p, name, seed, size) for name, p in scored.items()}
        self._directions = directions
        self._end = 0
        self._rows = range(0)
        self._turns: Counter[tuple[str, int | None]] = Counter()
        self.sketches = {
            name: torch.zeros(
                directions, samples, sketch_numbers(p, size), dtype=wide(p).dtype, device=p.device
            )
            for name, p in scored.items()
        }

    def begin(self, samples: Sequence[int]) -> None:
        """The next rows are theirs."""
        assert set(self._turns.values()) <= {self._directions}, "a direction was left out"
        self._turns.clear()
        self._rows = range(self._end, self._end + len(samples))
        self._end += len(samples)

    def _direction(self, name: str, row: int | None = None) -> int:
        """Directions come one after the other."""
        self._turns[name, row] += 1
        return self._turns[name, row] - 1

    def add_linear(self, name: str, kept: Kept, gradients: Tensor) -> None:
        """(P Gᵀ)(A Q) of every row."""
        left, right = self._projections[name]
        g, a = wide(gradients), wide(formed(kept))
        g = g if left is None else g @ left.mT
        a = a if right is None else a @ right
        rows = self.sketches[name][self._direction(name)]
        rows[self._rows.start : self._rows.stop] = (g.mT @ a).flatten(1)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """P J Q."""
        left, right = self._projections[name]
        sketch = wide(gradient)
        sketch = sketch if left is None else left @ sketch
        sketch = sketch if right is None else sketch @ right
        self.sketches[name][self._direction(name, row), self._rows[row]] = sketch.flatten()

    def add_products(self, names: Sequence[str], kernel: Tensor) -> None:
        """Add Σ Φ Φᵀ over some weights and all directions to a kernel (N, N)."""
        for name in names:
            for sketch in self.sketches[name]:
                kernel.addmm_(sketch, sketch.mT)

    def add_vector(self, name: str, gradients: Tensor) -> None:  # noqa: ARG002
        """The kernel is of the weights of Linears."""
        raise TypeError(f"{name} is no weight of a Linear")

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:  # noqa: ARG002
        """The kernel is of the weights of Linears."""
        raise TypeError(f"{name} is no weight of a Linear")


def projections(
    weight: Tensor, name: str, seed: int, size: int
) -> tuple[Tensor | None, Tensor | None]:
    """P (size, p) and Q (d, size), Gaussian of variance 1/size; None stands for the identity."""
    generator = np.random.default_rng((seed, crc32(name.encode())))
    outputs, inputs = weight.shape
    drawn = [
        generator.standard_normal(shape) / size**0.5 for shape in ((size, outputs), (inputs, size))
    ]
    left, right = (torch.from_numpy(values).to(wide(weight.detach())) for values in drawn)
    return left if outputs > size else None, right if inputs > size else None


def sketch_numbers(weight: Tensor, size: int = SKETCH) -> int:
    """How many numbers the sketch of a weight's gradient has."""
    return min(size, weight.shape[0]) * min(size, weight.shape[1])
