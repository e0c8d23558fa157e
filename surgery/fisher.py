"""Per-sample squared gradients of log-likelihoods: the diagonal of the Fisher information.

For a sample i with log-likelihood ℓ_i and a parameter tensor p, g_{i,p} = ∇_p ℓ_i, and the
diagonal is D_p = (1/N) Σ_i g_{i,p}² (Lodha et al., "On Surgical Fine-tuning for Language
Encoders", Findings of EMNLP 2023). Neither one backward pass a sample nor the gradients of a
batch in memory are needed: parameters are frozen, so autograd computes activation gradients only,
and from a Linear's inputs A_i (T × d) and output gradients G_i (T × p) follow

    ‖g_i‖² = Σ_{t,s} (A_i A_iᵀ)_{ts} (G_i G_iᵀ)_{ts}        (the trace, g_i never formed)
    g_i    = G_iᵀ A_i                                        (elementwise, one sample at a time)

A model whose modules do not follow these rules takes the slow path of one backward pass a sample,
and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surgery.accumulators import Accumulator, Diagonal, Traces
from surgery.data import Batch
from surgery.errors import ScoresNotFinite
from surgery.hooks import UnsupportedModule
from surgery.passes import Objective, prepared, score_batch, score_one_by_one
from surgery.probe import Path, Plan, make_plan
from surgery.units import Unit


@dataclass(frozen=True)
class FisherScores:
    """What one pass over the samples gives.

    ``per_sample`` (N, U), float64: squared gradient norm of each sample and unit, by sample
    number; None for an elementwise pass. ``halves``: for an elementwise pass, the sum of squares
    over each of two disjoint halves of the samples, parameter name → tensor.
    ``units`` are those that were scored: a group whose modules do not follow the rules is left out
    and named in ``warnings``.
    """

    samples: int
    path: Path
    units: list[Unit]
    per_sample: Tensor | None = None
    halves: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def diagonal(self) -> dict[str, Tensor]:
        """D_p of each scored parameter, in the parameter's shape."""
        if self.halves is None:
            raise ValueError("only an elementwise pass keeps the diagonal")
        first, second = self.halves
        return {name: (first[name] + second[name]) / self.samples for name in first}


def fisher_scores(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Iterable[Batch],
    objective: Objective,
    *,
    elementwise: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> FisherScores:
    """Score every unit on every sample, in eval mode, each sample once.

    ``batches`` hold ``input_ids`` and ``attention_mask`` (N, T), or (N, C, T) for multiple choice,
    and ``labels``; ``sample`` (N,), optional, numbers the samples from 0 (default: in order).
    A pass costs about 0.75 of a training step's forward and backward for the trace, and about
    1.1–1.4 elementwise; memory does not grow with the number of samples, the N × U matrix aside.
    Raises ScoresNotFinite when a gradient is NaN or infinite.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no batch to score")
    with prepared(model):
        plan = make_plan(model, units, first, objective)
        scored = {name: p for name, p in model.named_parameters() if name in plan.columns}
        accumulator: Accumulator = (
            Diagonal(scored) if elementwise else Traces(scored, plan.columns)
        )
        samples = feed(model, accumulator, _chain(first, iterator), objective, plan, on_batch)
    shrink = objective.scale**-2
    if isinstance(accumulator, Diagonal):
        for half in accumulator.halves:
            for values in half.values():
                values *= shrink
        _require_finite(torch.stack([h.sum() for d in accumulator.halves for h in d.values()]))
        return FisherScores(
            samples, plan.path, plan.units, halves=accumulator.halves, warnings=plan.warnings
        )
    assert isinstance(accumulator, Traces)
    matrix = accumulator.matrix() * shrink
    _require_finite(matrix)
    matrix = matrix[torch.tensor(accumulator.samples).argsort()]
    return FisherScores(samples, plan.path, plan.units, per_sample=matrix, warnings=plan.warnings)


def feed(
    model: nn.Module,
    accumulator: Accumulator,
    batches: Iterable[Batch],
    objective: Objective,
    plan: Plan,
    on_batch: Callable[[int], None] | None = None,
) -> int:
    """Add every sample to an accumulator, by the plan's path; how many there were.

    A batch in which a module breaks a rule that the first one kept (sparse attention begins at
    some length) is scored one sample at a time, and ``plan.warnings`` says so.
    """
    total = 0
    for batch in batches:
        samples = _numbers(batch, total)
        accumulator.begin(samples)
        if plan.path == "one_sample":
            score_one_by_one(model, accumulator, batch, samples, objective)
        else:
            try:
                score_batch(model, accumulator, batch, samples, objective)
            except UnsupportedModule as error:  # raised before anything was added
                plan.note_slow_batch(str(error))
                score_one_by_one(model, accumulator, batch, samples, objective)
        total += len(samples)
        if on_batch:
            on_batch(total)
    return total


def _numbers(batch: Batch, seen: int) -> list[int]:
    """The samples' numbers; a tensor on the device would have to be waited for."""
    given = batch.get("sample")
    rows = len(batch["labels"])
    return list(range(seen, seen + rows)) if given is None else given.tolist()


def _chain(first: Batch, rest: Iterable[Batch]) -> Iterable[Batch]:
    yield first
    yield from rest


def _require_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise ScoresNotFinite
