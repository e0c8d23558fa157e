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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch
from surgery.errors import ScoresNotFinite
from surgery.gradients.accumulators import Accumulator, Diagonal, Traces
from surgery.gradients.hooks import UnsupportedModule
from surgery.gradients.passes import Objective, prepared, score_batch, score_one_by_one
from surgery.gradients.plan import Path, Plan, make_plan
from surgery.models.blocks import Unit


@dataclass(frozen=True)
class FisherScores:
    """What one pass over the samples gives.

    ``numbers``: the samples' numbers, ascending. ``per_sample`` (N, U), float64: squared gradient
    norm of each sample, in that order, and unit; None for an elementwise pass. ``sums``: for an
    elementwise pass, the sum of squares over the samples, parameter name → tensor.
    ``units`` are those that were scored: a group whose modules do not follow the rules is left out
    and named in ``warnings``.
    """

    numbers: list[int]
    path: Path
    units: list[Unit]
    per_sample: Tensor | None = None
    sums: Mapping[str, Tensor] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def diagonal(self) -> dict[str, Tensor]:
        """D_p of each scored parameter, in the parameter's shape."""
        if self.sums is None:
            raise ValueError("only an elementwise pass keeps the diagonal")
        return {name: total / len(self.numbers) for name, total in self.sums.items()}


def fisher_scores(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Iterable[Batch],
    objective: Objective,
    *,
    elementwise: bool = False,
    plan: Plan | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> FisherScores:
    """Score every unit on every sample, in eval mode, each sample once.

    ``batches`` hold ``input_ids`` and ``attention_mask`` (N, T), or (N, C, T) for multiple choice,
    and ``labels``; ``sample`` (N,), optional, numbers the samples from 0 (default: in order).
    ``plan`` is that of an earlier pass through the same model. A pass costs about 0.75 of a
    training step's forward and backward for the trace, and about 1.1–1.4 elementwise; memory does
    not grow with the number of samples, the N × U matrix aside.
    Raises ScoresNotFinite when a gradient is NaN or infinite.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no batch to score")
    plan = plan or plan_for(model, units, first, objective)
    scored = scored_parameters(model, plan)
    accumulator: Traces | Diagonal = (
        Diagonal(scored) if elementwise else Traces(scored, plan.columns, grams=objective.grams)
    )
    numbers = feed(model, accumulator, _chain(first, iterator), objective, plan, on_batch)
    found = collect(accumulator, numbers, objective, plan)
    require_finite(found)
    return found


def plan_for(model: nn.Module, units: Sequence[Unit], batch: Batch, objective: Objective) -> Plan:
    """The path this model takes, found on the first batch; the model is left as it was."""
    with prepared(model):
        return make_plan(model, units, batch, objective)


def scored_parameters(model: nn.Module, plan: Plan) -> dict[str, nn.Parameter]:
    """Those that belong to a unit of the plan."""
    return {name: p for name, p in model.named_parameters() if name in plan.columns}


def collect(
    accumulator: Traces | Diagonal, numbers: Sequence[int], objective: Objective, plan: Plan
) -> FisherScores:
    """What an accumulator holds after a pass."""
    shrink = objective.scale**-2
    ordered = sorted(numbers)
    if isinstance(accumulator, Diagonal):
        accumulator.scale(shrink)
        return FisherScores(
            ordered, plan.path, plan.units, sums=accumulator.sums, warnings=plan.warnings
        )
    matrix = (accumulator.matrix() * shrink)[torch.tensor(list(numbers)).argsort()]
    return FisherScores(ordered, plan.path, plan.units, per_sample=matrix, warnings=plan.warnings)


def require_finite(found: FisherScores) -> None:
    """Raise ScoresNotFinite when a score is NaN or infinite."""
    if found.per_sample is not None:
        totals = found.per_sample
    else:
        assert found.sums is not None
        totals = torch.stack([total.sum() for total in found.sums.values()])
    if not torch.isfinite(totals).all():
        raise ScoresNotFinite


def feed(
    model: nn.Module,
    accumulator: Accumulator,
    batches: Iterable[Batch],
    objective: Objective,
    plan: Plan,
    on_batch: Callable[[int], None] | None = None,
) -> list[int]:
    """Add every sample to an accumulator, by the plan's path; their numbers, as they came.

    A batch in which a module breaks a rule that the first one kept (sparse attention begins at
    some length) is scored one sample at a time, and ``plan.warnings`` says so.
    """
    numbers: list[int] = []
    with prepared(model):
        for batch in batches:
            samples = _numbers(batch, len(numbers))
            accumulator.begin(samples)
            _add_batch(model, accumulator, batch, samples, objective, plan)
            numbers += samples
            if on_batch:
                on_batch(len(numbers))
    return numbers


def _add_batch(
    model: nn.Module,
    accumulator: Accumulator,
    batch: Batch,
    samples: Sequence[int],
    objective: Objective,
    plan: Plan,
) -> None:
    if plan.path != "one_sample":
        try:
            score_batch(model, accumulator, batch, samples, objective, plan.once)
        except UnsupportedModule as error:  # raised before anything was added
            plan.note_slow_batch(str(error))
        else:
            return
    score_one_by_one(model, accumulator, batch, samples, objective)


def _numbers(batch: Batch, seen: int) -> list[int]:
    """The samples' numbers; a tensor on the device would have to be waited for."""
    given = batch.get("sample")
    rows = len(batch["labels"])
    return list(range(seen, seen + rows)) if given is None else given.tolist()


def _chain(first: Batch, rest: Iterable[Batch]) -> Iterable[Batch]:
    yield first
    yield from rest
