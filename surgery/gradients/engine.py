"""Per-sample squared gradients of log-likelihoods: the diagonal of the Fisher information.

For a sample i with log-likelihood ℓ_i and a parameter tensor p, g_{i,p} = ∇_p ℓ_i, and the
diagonal is D_p = (1/N) Σ_i g_{i,p}² (Lodha et al., "On Surgical Fine-tuning for Language
Encoders", Findings of EMNLP 2023). This takes neither one backward pass for each sample nor the
memory of a batch of gradients. Parameters are frozen, so autograd computes the gradients of
activations only. A Linear's inputs A_i (T × d) and output gradients G_i (T × p) give

    ‖g_i‖² = Σ_{t,s} (A_i A_iᵀ)_{ts} (G_i G_iᵀ)_{ts}        (the trace, g_i never formed)
    g_i    = G_iᵀ A_i                                        (elementwise, one sample at a time)

A model whose modules do not follow these rules takes the slow path, one backward pass for each
sample, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch, sample_numbers
from surgery.errors import ScoresNotFinite
from surgery.gradients.accumulators import (
    Accumulator,
    CombinedAccumulator,
    Diagonal,
    Means,
    Traces,
    offloaded,
)
from surgery.gradients.hooks import UnsupportedModule
from surgery.gradients.passes import Objective, score_batch, score_one_by_one, scoring_mode
from surgery.gradients.plan import Plan, ScoringPath, make_plan
from surgery.models.blocks import Unit
from surgery.models.distributed import Share, all_reduce, gather_rows
from surgery.schemas import JobWarning

Statistic = Literal["traces", "diagonal", "means"]
ALONE = Share()


@dataclass(frozen=True)
class FisherScores:
    """What one pass over the samples gives.

    - ``numbers``: the numbers of the samples, ascending.
    - ``per_sample`` (N, U), float64: the squared gradient norm of each sample, in the order of
      ``numbers``, for each unit. None for an elementwise pass.
    - ``sums``: for an elementwise pass, the sum of squares over the samples, by parameter name.
    - ``units``: those that were scored. A group whose modules do not follow the rules is left out,
      and ``warnings`` names it.
    - ``means``: the sums of the gradients themselves, if they were requested.
    """

    numbers: list[int]
    path: ScoringPath
    units: list[Unit]
    per_sample: Tensor | None = None
    sums: Mapping[str, Tensor] | None = None
    warnings: list[JobWarning] = field(default_factory=list)
    means: Means | None = None

    @property
    def diagonal(self) -> dict[str, Tensor]:
        """D_p of each scored parameter, in the parameter's shape."""
        if self.sums is None:
            raise ValueError("only an elementwise pass keeps the diagonal")
        return {name: total / len(self.numbers) for name, total in self.sums.items()}

    def offloaded(self) -> FisherScores:
        """The same, with its sums moved out of the way of the next pass; they can be large."""
        if self.means is not None:
            self.means.offload()
        return replace(self, sums=None if self.sums is None else offloaded(self.sums))


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
    and ``labels``. The optional ``sample`` (N,) numbers the samples from 0 (default: in order).
    ``plan`` can be that of an earlier pass through the same model. For the trace a pass costs about
    0.75 of the forward and backward of a training step, elementwise about 1.1–1.4. Memory does not
    grow with the number of samples, except for the N × U matrix.
    Raises ScoresNotFinite when a gradient is NaN or infinite.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no batch to score")
    plan = plan or plan_for(model, units, first, objective)
    kinds: list[Statistic] = ["diagonal" if elementwise else "traces"]
    whole = chain([first], iterator)
    return score_samples(model, plan, whole, objective, kinds=kinds, on_batch=on_batch)


def plan_for(model: nn.Module, units: Sequence[Unit], batch: Batch, objective: Objective) -> Plan:
    """Find out on the first batch which path this model takes; the model stays unchanged."""
    with scoring_mode(model):
        return make_plan(model, units, batch, objective)


def score_samples(
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Batch],
    objective: Objective,
    *,
    kinds: Collection[Statistic],
    share: Share = ALONE,
    samples: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> FisherScores:
    """Pass once over this process's batches: the one way from batches to scores of gradients.

    ``kinds`` says what is accumulated on the way: the squared norms of each sample's gradients
    (``traces``) or their elementwise squares (``diagonal``), and the sums of the gradients
    (``means``). The results of all processes of a ``share`` are added up; together they have
    ``samples`` samples. Raises ScoresNotFinite, in every process.
    """
    scored = {name: p for name, p in model.named_parameters() if name in plan.columns}
    traces = Traces(scored, plan.columns, grams=objective.grams) if "traces" in kinds else None
    diagonal = Diagonal(scored) if "diagonal" in kinds else None
    means = Means(scored) if "means" in kinds else None
    parts = [part for part in (traces, diagonal, means) if part is not None]
    accumulator = parts[0] if len(parts) == 1 else CombinedAccumulator(parts)
    numbers = accumulate(model, accumulator, batches, objective, plan, on_batch)
    rows = None
    if traces is not None:
        rows = (traces.matrix() * objective.scale**-2)[torch.tensor(numbers).argsort()]
    if diagonal is not None:
        diagonal.scale(objective.scale**-2)
    if means is not None:
        means.scale(1 / objective.scale)
    found = FisherScores(
        sorted(numbers),
        plan.path,
        plan.units,
        per_sample=rows,
        sums=None if diagonal is None else diagonal.sums,
        warnings=plan.warnings,
        means=means,
    )
    if share.world > 1:
        found = _added_up(found, share, samples)
    _require_finite(found)
    return found


def accumulate(
    model: nn.Module,
    accumulator: Accumulator,
    batches: Iterable[Batch],
    objective: Objective,
    plan: Plan,
    on_batch: Callable[[int], None] | None = None,
) -> list[int]:
    """Add every sample to an accumulator, by the plan's path. Returns their numbers, as they came.

    A module can break a rule that it followed on the first batch: sparse attention, for example,
    begins at some length. Such a batch is scored one sample at a time, and ``plan.warnings`` says
    so.
    """
    numbers: list[int] = []
    with scoring_mode(model):
        for batch in batches:
            samples = sample_numbers(batch, len(numbers))
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
        except UnsupportedModule as error:  # it is raised before anything is added
            plan.note_slow_batch(str(error))
        else:
            return
    score_one_by_one(model, accumulator, batch, samples, objective)


def _added_up(found: FisherScores, share: Share, samples: int) -> FisherScores:
    """Combine the scores of this process with those of all others."""
    mine = torch.zeros(samples)
    mine[found.numbers] = 1
    numbers = all_reduce(mine, share).nonzero().flatten().tolist()
    means = {} if found.means is None else found.means.sums
    for total in (*(found.sums or {}).values(), *means.values()):
        all_reduce(total, share)
    if found.per_sample is None:
        return replace(found, numbers=numbers)
    rows = gather_rows(found.per_sample, found.numbers, samples, share)[numbers]
    return replace(found, numbers=numbers, per_sample=rows)


def _require_finite(found: FisherScores) -> None:
    """Raise ScoresNotFinite when a squared gradient is NaN or infinite."""
    totals = [total.sum() for total in (found.sums or {}).values()]
    for tensor in (found.per_sample, torch.stack(totals) if totals else None):
        if tensor is not None and not torch.isfinite(tensor).all():
            raise ScoresNotFinite
