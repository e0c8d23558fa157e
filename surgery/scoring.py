"""Score a loaded model's units by one method after the other, through the head it has now."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from surgery.accumulators import Diagonal, Means, Several, Traces
from surgery.data import Batch
from surgery.fisher import FisherScores, collect, feed, plan_for, scored_parameters
from surgery.loading import LoadedModel
from surgery.methods import by_position, cls_similarity, gradient_scores, weight_snr
from surgery.parallel import add_up, gather_rows
from surgery.passes import Objective
from surgery.probe import Path, Plan
from surgery.progress import Reporter
from surgery.sample import Sample
from surgery.scores import Scores, fisher_units
from surgery.spec import Aggregate, Fisher, Method, Precision, Problem, RankingOptions
from surgery.tangent import tangent_scores
from surgery.units import groups_of, units_of

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
HALF_SCALE = 1024.0  # lifts gradients of 1e-6, lost in fp16 otherwise; 64 is still representable
GRADIENT_METHODS = (Method.GRADIENT_NORM, Method.RELATIVE_GRADIENT_NORM, Method.SNIP)
POSITIONS = (Method.LAST, Method.FIRST, Method.RANDOM)
HEADLESS = (Method.WEIGHT_SNR, Method.CLS_SIMILARITY, *POSITIONS)


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

    @property
    def model(self) -> nn.Module:
        """The loaded model, or its copy in half precision."""
        dtype = DTYPES.get(self.options.precision)
        if dtype is None:
            return self.loaded.model
        if self._copy is None:
            self._copy = copy.deepcopy(self.loaded.model).to(dtype)
        return self._copy

    def head_changed(self) -> None:
        """The next score takes the weights as they then are."""
        self._copy = None

    def scores(self) -> dict[Method, Scores]:
        """By the method asked for, or by all, through the present head."""
        method = self.options.method
        if method is Method.FISHER:
            return {method: self.fisher()}
        if method is Method.TANGENT:
            return {method: self.tangent()}
        if method in GRADIENT_METHODS:
            return {method: self.gradients()[method]}
        if method in HEADLESS:
            return {method: self.headless(method)}
        return self._all()

    def _all(self) -> dict[Method, Scores]:
        if self.options.fisher is Fisher.EMPIRICAL:
            found = self._together()
        else:
            found = {Method.FISHER: self.fisher(), **self.gradients()}
        found[Method.TANGENT] = self.tangent()
        return found | {method: self.headless(method) for method in HEADLESS}

    def fisher(
        self,
        batches: Callable[[], Sequence[Batch]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Scores:
        """The Fisher score of every unit, on the whole sample, some rows, or batches as made.

        They are made again, smaller, where memory runs out.
        """

        def score() -> Scores:
            scored = scored_parameters(self.model, self.plan)
            accumulator = self._fisher_accumulator(scored)
            made = None if batches is None else batches()
            numbers = self._pass(accumulator, self.objective, made, rows)
            return self._fisher_scores(accumulator, numbers, shared=batches is None)

        return self.sample.scored(score)

    def _fisher_accumulator(self, scored: dict[str, nn.Parameter]) -> Traces | Diagonal:
        if self.options.aggregate is Aggregate.FROBENIUS:
            return Diagonal(scored)
        return Traces(scored, self.plan.columns, grams=self.objective.grams)

    def _fisher_scores(
        self, accumulator: Traces | Diagonal, numbers: list[int], *, shared: bool
    ) -> Scores:
        found = collect(accumulator, numbers, self.objective, self.plan)
        if shared:
            found = self._added_up(found)
        return fisher_units(found, self.options.aggregate)

    def _added_up(self, found: FisherScores) -> FisherScores:
        """With the other processes' samples."""
        share, total = self.sample.share, len(self.sample)
        if share.world == 1:
            return found
        mine = torch.zeros(total)
        mine[found.numbers] = 1
        numbers = add_up(mine, share).nonzero().flatten().tolist()
        per_sample, halves = found.per_sample, found.halves
        if per_sample is not None:
            per_sample = gather_rows(per_sample, found.numbers, total, share)[numbers]
        if halves is not None:
            for half in halves:
                for values in half.values():
                    add_up(values, share)
        return FisherScores(
            numbers, found.path, found.units, per_sample, halves, warnings=found.warnings
        )

    def gradients(self) -> dict[Method, Scores]:
        """The scores of the mean gradient, at the dataset's labels."""

        def score() -> dict[Method, Scores]:
            means = Means(scored_parameters(self.model, self.plan))
            self._pass(means, self._labelled, None, None)
            return self._gradient_scores(means)

        return self.sample.scored(score)

    @property
    def _labelled(self) -> Objective:
        return Objective(self.problem, scale=self.objective.scale)

    def _gradient_scores(self, means: Means) -> dict[Method, Scores]:
        for half in means.halves:
            for values in half.values():
                values.div_(self.objective.scale)
                add_up(values, self.sample.share)
        return gradient_scores(means, self.ranked, len(self.sample))

    def _together(self) -> dict[Method, Scores]:
        """Fisher and gradient scores from the same pass."""

        def score() -> dict[Method, Scores]:
            scored = scored_parameters(self.model, self.plan)
            fisher, means = self._fisher_accumulator(scored), Means(scored)
            numbers = self._pass(Several([fisher, means]), self.objective, None, None)
            found = self._fisher_scores(fisher, numbers, shared=True)
            return {Method.FISHER: found, **self._gradient_scores(means)}

        return self.sample.scored(score)

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
        """Found once: it depends on the architecture, not on head or labels."""
        if self._plan is None:
            first = next(iter(self.sample.batches()))
            self._plan = plan_for(self.model, self.units, first, self.objective)
        return self._plan

    def _pass(
        self,
        accumulator: Traces | Diagonal | Means | Several,
        objective: Objective,
        batches: Iterable[Batch] | None,
        rows: Sequence[int] | None,
    ) -> list[int]:
        source = self.sample.batches(rows) if batches is None else batches
        numbers = feed(self.model, accumulator, source, objective, self.plan, self._tell)
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
