"""Method tangent: how well each layer's tangent kernel predicts the residuals of the head.

Tuning a layer for a short while is close to kernel regression with the layer's tangent kernel
K(i, j) = (1/C) Σ_c ⟨J_i^c, J_j^c⟩, where J_i^c is the gradient of output c on sample i with respect
to the weights of the layer's Linears (Jacot et al., "Neural Tangent Kernel", NeurIPS 2018). The
gradients are compressed to sketches by random projections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch
from surgery.errors import MethodUndefined, ModelUnsupported, ScoresNotFinite
from surgery.gradients.accumulators import Accumulator, SavedInputs, upcast, whole_inputs
from surgery.gradients.engine import accumulate, plan_for
from surgery.gradients.likelihood import likelihood_slope
from surgery.gradients.passes import Objective, scoring_mode, without_padding
from surgery.gradients.plan import Plan, ScoringPath
from surgery.models.blocks import Unit, model_inputs
from surgery.ranking.methods import linear_weights
from surgery.ranking.scores import Matrix, Scores, from_samples
from surgery.schemas import JobWarning
from surgery.schemas.enums import METHODS, Method, Problem

SKETCH = 48  # rows and columns of a sketch: norms are off by a quarter at rank one, else by less

FOLDS = 5
MAX_OUTPUTS = 8  # for more outputs, this many directions are drawn
BUDGET = 2**30  # bytes of sketches in memory at once
MOST = 0.9  # of the parameters: the result warns if the kernels cover a smaller share


class SketchAccumulator(Accumulator):
    """Sketches φ = P J Q of the weights' gradients J along each direction of the outputs.

    ``sketches`` maps a parameter's name to a tensor (directions, samples, numbers of a sketch). A
    side of a weight that is no longer than ``size`` is not projected, so the sketch of a small
    weight is J itself. P and Q depend on the seed and the parameter's name alone. Samples stay in
    the order in which they come.
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
                directions, samples, sketch_numbers(p, size), dtype=upcast(p).dtype, device=p.device
            )
            for name, p in scored.items()
        }

    def begin(self, samples: Sequence[int]) -> None:
        """Reserve the next rows of the sketches for the samples of this batch."""
        assert set(self._turns.values()) <= {self._directions}, "a direction was left out"
        self._turns.clear()
        self._rows = range(self._end, self._end + len(samples))
        self._end += len(samples)

    def _direction(self, name: str, row: int | None = None) -> int:
        """The index of the present direction: each call for the same row is the next one."""
        self._turns[name, row] += 1
        return self._turns[name, row] - 1

    def add_linear(self, name: str, saved: SavedInputs, gradients: Tensor) -> None:
        """Store the sketches (P Gᵀ)(A Q) of all samples."""
        left, right = self._projections[name]
        g, a = upcast(gradients), upcast(whole_inputs(saved))
        g = g if left is None else g @ left.mT
        a = a if right is None else a @ right
        rows = self.sketches[name][self._direction(name)]
        rows[self._rows.start : self._rows.stop] = (g.mT @ a).flatten(1)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """Store the sketch P J Q of one sample."""
        left, right = self._projections[name]
        sketch = upcast(gradient)
        sketch = sketch if left is None else left @ sketch
        sketch = sketch if right is None else sketch @ right
        self.sketches[name][self._direction(name, row), self._rows[row]] = sketch.flatten()

    def add_products(self, names: Sequence[str], kernel: Tensor) -> None:
        """Add Σ Φ Φᵀ over some weights and all directions to a kernel (N, N)."""
        for name in names:
            for sketch in self.sketches[name]:
                kernel.addmm_(sketch, sketch.mT)

    def add_vector(self, name: str, gradients: Tensor) -> None:  # noqa: ARG002
        """Raise TypeError: only the weights of Linears are sketched."""
        raise TypeError(f"{name} is not the weight of a Linear")

    def add_embedding(self, name: str, ids: Tensor, gradients: Tensor) -> None:  # noqa: ARG002
        """Raise TypeError: only the weights of Linears are sketched."""
        raise TypeError(f"{name} is not the weight of a Linear")


def projections(
    weight: Tensor, name: str, seed: int, size: int
) -> tuple[Tensor | None, Tensor | None]:
    """P (size, p) and Q (d, size), Gaussian of variance 1/size; None stands for the identity."""
    generator = np.random.default_rng((seed, crc32(name.encode())))
    outputs, inputs = weight.shape
    drawn = [
        generator.standard_normal(shape) / size**0.5 for shape in ((size, outputs), (inputs, size))
    ]
    left, right = (torch.from_numpy(values).to(upcast(weight.detach())) for values in drawn)
    return left if outputs > size else None, right if inputs > size else None


def sketch_numbers(weight: Tensor, size: int = SKETCH) -> int:
    """How many numbers the sketch of a weight's gradient has."""
    return min(size, weight.shape[0]) * min(size, weight.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputDirections(Objective):
    """The rows of ``vectors`` (R, C) as directions of the outputs, the same for every sample.

    On the way it stores each sample's residual (C,) in ``residuals``, by the sample's number.
    """

    vectors: Tensor
    residuals: dict[int, Tensor]

    def directions(self, logits: Tensor, batch: Batch, samples: Sequence[int]) -> Iterator[Tensor]:
        """Yield one direction for each vector."""
        left = likelihood_slope(upcast(logits.detach()), batch["labels"], self.problem)
        self.residuals.update(zip(samples, left.double().cpu(), strict=True))
        for vector in self.vectors.to(logits):
            yield vector.expand_as(logits)


@dataclass(frozen=True)
class Pass:
    """One pass of all batches through the model, which sketches some units and directions."""

    places: list[int]
    vectors: Tensor


def tangent_scores(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Sequence[Batch],
    problem: Problem,
    *,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
    budget: int = BUDGET,
) -> tuple[Scores, ScoringPath, list[JobWarning]]:
    """Score ranked units by the cross-validated R² of ridge regression with their tangent kernel.

    The regression predicts the residuals onehot(y) − p or y − f of the present model. All units
    share one ridge λ, the mean of tr(K)/N, so that a unit of a larger kernel, which learns faster,
    scores higher. A score of 0 is as good as predicting nothing, and scores may be negative.
    Samples are divided into five folds by seed and number. ``batches`` are as for
    ``fisher_scores``.

    Returns the scores (with each sample's part, so that every resample has its own R²), the path
    and warnings. The cost is one forward and C backward passes, 8 for more than 8 outputs. Memory
    holds N² numbers for each unit, and sketches of N · 48² numbers for each Linear and direction.
    Sketches take at most ``budget`` bytes, or more if those of one unit and direction do; if all
    together take more, the batches pass through the model several times.

    Raises MethodUndefined for token classification and for fewer than 10 or more than 2,000
    samples, ModelUnsupported for a unit without a Linear, and ScoresNotFinite.
    """
    samples = sum(len(batch["labels"]) for batch in batches)
    _require_defined(problem, samples)
    scored = linear_weights(model, units)
    if lacking := {unit.name for unit in units} - {unit.name for unit in scored}:
        raise ModelUnsupported(
            f"{min(lacking)} has no Linear, and method tangent is based on the weights of Linears; "
            "use another method"
        )
    plan = plan_for(model, scored, batches[0], Objective(problem))
    kernels, residuals = tangent_kernels(
        model, scored, batches, plan, problem, seed=seed, budget=budget, on_batch=on_batch
    )
    explained, total = cross_validated(kernels, residuals, seed)
    warnings = plan.warnings + _left_out(units, scored)
    return from_samples(units, explained, total), plan.path, warnings


def _require_defined(problem: Problem, samples: int) -> None:
    facts = METHODS[Method.TANGENT]
    fewest, most = facts.samples
    if problem not in facts.problems:
        raise MethodUndefined(
            "method tangent compares samples by the gradients of the same outputs, and a text with "
            "tags has outputs for each of its words; use another method for token classification"
        )
    if samples < fewest:
        raise MethodUndefined(
            f"method tangent cross-validates over {FOLDS} folds and needs {fewest} samples at "
            f"least, not {samples}; score more rows or use another method"
        )
    if samples > most:
        raise MethodUndefined(
            f"method tangent takes at most {most:,} samples, as its memory grows with their "
            f"square; set samples to {most} or less, not {samples:,}"
        )


def _left_out(units: Sequence[Unit], scored: Sequence[Unit]) -> list[JobWarning]:
    share = sum(unit.parameters for unit in scored) / sum(unit.parameters for unit in units)
    if share >= MOST:
        return []
    message = (
        f"the tangent kernels cover the weights of Linears, {share:.0%} of the layers' "
        "parameters; the others are left out"
    )
    return [JobWarning(code="parameters_left_out", message=message)]


def output_vectors(outputs: int, seed: int) -> Tensor:
    """Rows v (R, C) with Σ v vᵀ = I/C: one for each output, or 8 if there are more outputs.

    In the latter case the rows are random and orthogonal, and the equation holds in expectation.
    """
    if outputs <= MAX_OUTPUTS:
        return torch.eye(outputs, dtype=torch.float64).mul_(outputs**-0.5)
    drawn = np.random.default_rng(seed).standard_normal((outputs, MAX_OUTPUTS))
    basis, _ = np.linalg.qr(drawn)
    return torch.from_numpy(basis.T * MAX_OUTPUTS**-0.5)


def plan_passes(sizes: Sequence[int], vectors: Tensor, budget: int) -> list[Pass]:
    """As few passes as the budget allows; ``sizes`` are the bytes of each unit's sketches.

    The sizes are those of one direction. Several directions share a forward pass. If the budget
    does not hold even one direction of all units, a pass takes only some units, at least one.
    """
    together = budget // sum(sizes)
    if together:
        return [Pass(list(range(len(sizes))), part) for part in vectors.split(together)]
    groups: list[list[int]] = []
    used = budget
    for place, size in enumerate(sizes):
        if used + size > budget:
            groups.append([])
            used = 0
        groups[-1].append(place)
        used += size
    return [Pass(group, vector) for group in groups for vector in vectors.split(1)]


def tangent_kernels(
    model: nn.Module,
    scored: Sequence[Unit],
    batches: Sequence[Batch],
    plan: Plan,
    problem: Problem,
    *,
    seed: int,
    budget: int = BUDGET,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Kernels (U, N, N) and residuals (N, C), both in the order of the samples' numbers.

    ``scored`` are units of nothing but weights of Linears. Residuals are float64, kernels float32
    or wider.
    """
    samples = sum(len(batch["labels"]) for batch in batches)
    parameters = dict(model.named_parameters())
    some = upcast(parameters[scored[0].members[0]].detach())
    kernels = some.new_zeros(len(scored), samples, samples)
    sizes = [
        samples * some.itemsize * sum(sketch_numbers(parameters[name]) for name in unit.members)
        for unit in scored
    ]
    passes = plan_passes(sizes, output_vectors(_outputs(model, batches[0]), seed), budget)
    residuals: dict[int, Tensor] = {}
    numbers: list[int] = []
    for number, each in enumerate(passes):
        units = [scored[place] for place in each.places]
        weights = {name: parameters[name] for unit in units for name in unit.members}
        sketches = SketchAccumulator(weights, len(each.vectors), samples, seed)
        objective = OutputDirections(problem, vectors=each.vectors, residuals=residuals)
        tell = _progress(on_batch, number, len(passes), samples)
        numbers = accumulate(model, sketches, batches, objective, plan, tell)
        for place in each.places:
            sketches.add_products(scored[place].members, kernels[place])
    order = np.argsort(numbers)
    found = kernels[:, order][:, :, order]
    return found, torch.stack([residuals[number] for number in sorted(numbers)])


def _outputs(model: nn.Module, batch: Batch) -> int:
    """How many outputs the model has for a sample."""
    with scoring_mode(model), torch.no_grad():
        logits = model(**model_inputs(model, without_padding(batch, 0))).logits
    return int(logits.shape[-1])


def _progress(
    on_batch: Callable[[int], None] | None, number: int, passes: int, samples: int
) -> Callable[[int], None] | None:
    """A callback for one of several passes, each of which counts for its share of the samples."""
    if on_batch is None:
        return None
    return lambda seen: on_batch((number * samples + seen) // passes)


def cross_validated(kernels: Tensor, residuals: Tensor, seed: int) -> tuple[Matrix, Matrix]:
    """What ridge regression with each kernel explains of held-out residuals, (N, U), of (N,).

    Both are sums of squares over a sample's outputs. The second is that of its residual; the first
    is that less the sum of squares of the prediction error. Each kernel and fold takes one
    factorisation, in float64.
    """
    samples = len(residuals)
    ridge = float(kernels.diagonal(dim1=1, dim2=2).double().mean())
    total = residuals.square().sum(1)
    if not np.isfinite(ridge) or not bool(torch.isfinite(total).all()):
        raise ScoresNotFinite
    if ridge == 0 or not bool(total.any()):
        raise MethodUndefined(
            "the outputs do not change with the weights of the layers, or leave nothing "
            "unexplained; use another method, or another head"
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(samples))
    explained = np.zeros((samples, len(kernels)))
    for place, kernel in enumerate(kernels):
        wider = kernel.double().cpu()
        for fold in order.tensor_split(FOLDS):
            error = residuals[fold] - _predicted(wider, residuals, fold, ridge)
            explained[fold, place] = (total[fold] - error.square().sum(1)).numpy()
    return explained, total.numpy()


def _predicted(kernel: Tensor, residuals: Tensor, fold: Tensor, ridge: float) -> Tensor:
    """The residuals of the samples of a fold, predicted from those of all others."""
    others = torch.ones(len(kernel), dtype=torch.bool)
    others[fold] = False
    fitted = others.nonzero().flatten()
    inner = kernel[fitted][:, fitted]
    inner.diagonal().add_(ridge)
    weights = torch.cholesky_solve(residuals[fitted], torch.linalg.cholesky(inner))
    return kernel[fold][:, fitted] @ weights
