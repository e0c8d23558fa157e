"""Score a loaded model's units by one method after the other, through the head it has now."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch
from surgery.errors import MethodUndefined
from surgery.gradients.accumulators import Accumulator, Diagonal, Means, Several, Sums, Traces
from surgery.gradients.engine import (
    FisherScores,
    collect,
    feed,
    plan_for,
    require_finite,
    scored_parameters,
)
from surgery.gradients.passes import Objective
from surgery.gradients.plan import Path, Plan
from surgery.io.reporter import Reporter
from surgery.models.blocks import groups_of, units_of
from surgery.models.distributed import add_up, gather_rows
from surgery.models.loading import LoadedModel
from surgery.ranking.methods import by_position, cls_similarity, gradient_scores, weight_snr
from surgery.ranking.sample import Sample
from surgery.ranking.scores import Scores, fisher_units, frobenius_of_halves
from surgery.ranking.tangent import tangent_scores
from surgery.schemas.enums import METHODS, Aggregate, Fisher, Method, Precision, Problem
from surgery.schemas.ranking import RankingOptions

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
HALF_SCALE = 1024.0  # lifts gradients of 1e-6, lost in fp16 otherwise; 64 is still representable
Parkable = TypeVar("Parkable", bound=Sums)


@dataclass
class Scorer:
    """What stays the same while heads and labels change: model, sample, units and the path."""

    loaded: LoadedModel
    sample: Sample
    problem: Problem
    options: RankingOptions
    report: Reporter
    warnings: list[str] = field(default_factory=list)
    path: Path | None = None
    _plan: Plan | None = None
    _copy: nn.Module | None = None

    def __post_init__(self) -> None:
        model, blocks = self.loaded.model, self.loaded.blocks
        self.ranked = units_of(model, blocks, self.options.granularity)
        self.units = self.ranked + groups_of(model, blocks)
        scale = HALF_SCALE if self.options.precision is Precision.FP16 else 1.0
        self.objective = Objective(
            self.problem, self.options.fisher, self.options.draws, self.options.seed, scale
        )
        self.sample.fit_to_memory(model)
        if self.options.precision is Precision.FP16 and self.sample.device.type == "cpu":
            self._warn(["fp16 is slow on a CPU, where nothing multiplies it; bf16 or fp32 is not"])

    @property
    def model(self) -> nn.Module:
        """The loaded model, or its copy in half precision."""
        precision = self.options.precision
        if precision not in DTYPES:
            return self.loaded.model
        if self._copy is None:
            self._copy = copy.deepcopy(self.loaded.model).to(DTYPES[precision])
        return self._copy

    def head_changed(self) -> None:
        """The next score takes the weights as they then are."""
        self._copy = None

    def scores(self) -> dict[Method, Scores]:
        """By the method asked for, or by all, through the present head."""
        method = self.options.method
        if method is Method.ALL:
            return self._all()
        if method is Method.FISHER:
            return {method: self.fisher()}
        if method is Method.TANGENT:
            return {method: self.tangent()}
        if METHODS[method].of_mean_gradient:
            return {method: self.gradients()[method]}
        return {method: self.headless(method)}

    def _all(self) -> dict[Method, Scores]:
        if self.options.fisher is Fisher.EMPIRICAL:
            found = self._together()
        else:
            found = {Method.FISHER: self.fisher(), **self.gradients()}
        try:
            found[Method.TANGENT] = self.tangent()
        except MethodUndefined as error:
            self._warn([f"{Method.TANGENT} is not in the table: {error.detail}"])
        headless = [method for method, facts in METHODS.items() if not facts.needs_head]
        return found | {method: self.headless(method) for method in headless}

    def fisher(
        self,
        batches: Callable[[], Sequence[Batch]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Scores:
        """The Fisher score of every unit, on the whole sample, some rows, or batches as made.

        They are made again, smaller, where memory runs out.
        """

        def score() -> Scores:
            made = None if batches is None else batches()
            parts = [self._fisher_accumulator()]
            numbers = self._pass(parts, self.objective, made, rows)
            return self._fisher_scores(parts[0], numbers, shared=batches is None)

        if self.options.aggregate is Aggregate.FROBENIUS and batches is None and rows is None:
            return self.sample.scored(lambda: self._by_halves(fisher=True)[Method.FISHER])
        return self.sample.scored(score)

    def gradients(self) -> dict[Method, Scores]:
        """The scores of the mean gradient, at the dataset's labels."""
        return self.sample.scored(lambda: self._by_halves(means=True))

    def _together(self) -> dict[Method, Scores]:
        """Fisher and gradient scores from the same pass."""
        return self.sample.scored(lambda: self._by_halves(fisher=True, means=True))

    def _by_halves(self, *, fisher: bool = False, means: bool = False) -> dict[Method, Scores]:
        """Score one half of the samples, put its sums out of the way, and score the other.

        So memory holds one sum of the parameters' size, as a training step holds one gradient.
        """
        objective = self.objective if fisher else self._labelled
        found: list[FisherScores] = []
        gradients: list[Means] = []
        seen = 0
        for rows in self.sample.halves():
            own = [self._fisher_accumulator()] if fisher else []
            mean = [Means(scored_parameters(self.model, self.plan))] if means else []
            numbers = self._pass([*own, *mean], objective, None, rows, seen)
            seen += len(numbers)
            for part in mean:
                part.scale(1 / objective.scale)
                self._add_up(part.sums)
                gradients.append(_parked(part))
            found += [self._half(part, numbers) for part in own]
        scores = {Method.FISHER: _of_halves(found, self.options.aggregate)} if fisher else {}
        if means:
            sizes = tuple(len(rows) for rows in self.sample.halves())
            scores |= gradient_scores(
                (gradients[0], gradients[1]), self.ranked, (sizes[0], sizes[1])
            )
        return scores

    def _half(self, accumulator: Traces | Diagonal, numbers: list[int]) -> FisherScores:
        found = self._collected(accumulator, numbers)
        if isinstance(accumulator, Diagonal):
            return replace(found, sums=_parked(accumulator).sums)
        return found

    def _fisher_accumulator(self) -> Traces | Diagonal:
        scored = scored_parameters(self.model, self.plan)
        if self.options.aggregate is Aggregate.FROBENIUS:
            return Diagonal(scored)
        return Traces(scored, self.plan.columns, grams=self.objective.grams)

    def _collected(self, accumulator: Traces | Diagonal, numbers: list[int]) -> FisherScores:
        """What this process and the others found; refused only then, by all of them alike."""
        found = self._added_up(collect(accumulator, numbers, self.objective, self.plan))
        require_finite(found)
        return found

    def _fisher_scores(
        self, accumulator: Traces | Diagonal, numbers: list[int], *, shared: bool
    ) -> Scores:
        if shared:
            found = self._collected(accumulator, numbers)
        else:
            found = collect(accumulator, numbers, self.objective, self.plan)
            require_finite(found)
        return fisher_units(found, self.options.aggregate)

    def _added_up(self, found: FisherScores) -> FisherScores:
        """With the other processes' samples."""
        share, total = self.sample.share, len(self.sample)
        if share.world == 1:
            return found
        mine = torch.zeros(total)
        mine[found.numbers] = 1
        numbers = add_up(mine, share).nonzero().flatten().tolist()
        if found.per_sample is not None:
            rows = gather_rows(found.per_sample, found.numbers, total, share)[numbers]
            return replace(found, numbers=numbers, per_sample=rows)
        assert found.sums is not None
        self._add_up(found.sums)
        return replace(found, numbers=numbers)

    def _add_up(self, sums: Mapping[str, Tensor]) -> None:
        for total in sums.values():
            add_up(total, self.sample.share)

    @property
    def _labelled(self) -> Objective:
        return Objective(self.problem, scale=self.objective.scale)

    def tangent(self) -> Scores:
        """Every process scores the whole sample: the kernels need all pairs."""

        def score() -> Scores:
            found, self.path, warnings = tangent_scores(
                self.loaded.model, self.ranked, list(whole.batches()), self.problem,
                seed=self.options.seed, on_batch=self._tell,
            )  # fmt: skip
            self._warn(warnings)
            return found

        whole = self.sample.whole()
        return whole.scored(score)

    def headless(self, method: Method) -> Scores:
        """Methods that take no gradient."""
        if method is Method.WEIGHT_SNR:
            return weight_snr(self.loaded.model, self.ranked)
        if method is Method.CLS_SIMILARITY:
            whole, (model, blocks) = self.sample.whole(), (self.loaded.model, self.loaded.blocks)
            return whole.scored(lambda: cls_similarity(model, blocks, whole.batches()))
        return by_position(self.ranked, method, self.options.seed)

    @property
    def plan(self) -> Plan:
        """Found once, on the same rows in every process; neither head nor labels change it."""
        if self._plan is None:
            first = next(iter(self.sample.whole().batches()))
            self._plan = plan_for(self.model, self.units, first, self.objective)
        return self._plan

    def _pass(
        self,
        parts: Sequence[Accumulator],
        objective: Objective,
        batches: Iterable[Batch] | None,
        rows: Sequence[int] | None,
        seen: int = 0,
    ) -> list[int]:
        source = self.sample.batches(rows) if batches is None else batches
        accumulator = parts[0] if len(parts) == 1 else Several(parts)
        numbers = feed(
            self.model, accumulator, source, objective, self.plan,
            lambda done: self._tell(seen + done),
        )  # fmt: skip
        self.path = self.plan.path
        self._warn(self.plan.warnings)
        return numbers

    def _tell(self, done: int) -> None:
        world = self.sample.share.world
        self.report.step(min(len(self.sample), done * world), len(self.sample), "samples")

    def _warn(self, warnings: Sequence[str]) -> None:
        self.warnings += [text for text in warnings if text not in self.warnings]


def ranked_only(scores: Scores) -> Scores:
    """Without the groups beside the layers."""
    return scores.only([place for place, unit in enumerate(scores.units) if unit.ranked])


def _of_halves(found: Sequence[FisherScores], aggregate: Aggregate) -> Scores:
    first, second = found
    if first.per_sample is None or second.per_sample is None:
        return frobenius_of_halves(first, second)
    numbers = first.numbers + second.numbers
    order = torch.tensor(numbers).argsort()
    rows = torch.cat([first.per_sample, second.per_sample])[order]
    return fisher_units(replace(first, numbers=sorted(numbers), per_sample=rows), aggregate)


def _parked(sums: Parkable) -> Parkable:
    sums.park()
    return sums
