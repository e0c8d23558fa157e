"""Score the units of a loaded model by any method, through the head that it has at the time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from surgery.data.tokens.dataset import Batch
from surgery.errors import MethodUndefined
from surgery.gradients.engine import ALONE, FisherScores, Statistic, plan_for, score_samples
from surgery.gradients.passes import Objective
from surgery.gradients.plan import Plan, ScoringPath
from surgery.io.reporter import Reporter
from surgery.models.blocks import groups_of, units_of
from surgery.models.distributed import Share
from surgery.models.loading import LoadedModel
from surgery.ranking.methods import by_position, cls_similarity, gradient_scores, weight_snr
from surgery.ranking.sample import Sample
from surgery.ranking.scores import Scores, fisher_units, frobenius_of_halves
from surgery.ranking.tangent import tangent_scores
from surgery.schemas import JobWarning
from surgery.schemas.enums import METHODS, Aggregate, Fisher, Method, Precision, Problem
from surgery.schemas.jobs.ranking import RankingOptions

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
HALF_SCALE = 1024.0  # fp16 would lose gradients of 1e-6; gradients of up to 64 still fit


@dataclass
class Scorer:
    """Scores the same units on the same samples, while head and labels may change in between."""

    loaded: LoadedModel
    sample: Sample
    problem: Problem
    options: RankingOptions
    report: Reporter
    warnings: list[JobWarning] = field(default_factory=list)
    path: ScoringPath | None = None
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
            message = "fp16 is slow on a CPU, which cannot multiply it"
            slow = JobWarning(code="fp16_on_cpu", message=message, remedy="set precision to bf16")
            self._warn([slow])

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
        """Discard the copy in half precision, so that the next score sees the new head."""
        self._copy = None

    def scores(self) -> dict[Method, Scores]:
        """The scores by the requested method, or by all of them, through the present head."""
        method = self.options.method
        if method is Method.ALL:
            return self._all()
        if method is Method.FISHER:
            return {method: self.fisher()}
        if method is Method.TANGENT:
            return {method: self.tangent()}
        if METHODS[method].of_mean_gradient:
            return {method: self.gradients()[method]}
        return {method: self.gradient_free(method)}

    def _all(self) -> dict[Method, Scores]:
        if self.options.fisher is Fisher.EMPIRICAL:
            found = self.sample.retry_with_smaller_batches(
                lambda: self._by_halves(self._fisher_kind, "means")
            )
        else:
            found = {Method.FISHER: self.fisher(), **self.gradients()}
        try:
            found[Method.TANGENT] = self.tangent()
        except MethodUndefined as error:
            message = f"{Method.TANGENT} is not in the table: {error.detail}"
            self._warn([JobWarning(code="method_undefined", message=message)])
        gradient_free = [method for method, facts in METHODS.items() if not facts.needs_head]
        return found | {method: self.gradient_free(method) for method in gradient_free}

    def fisher(
        self,
        batches: Callable[[], Sequence[Batch]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Scores:
        """The Fisher score of every unit, on all samples, on some ``rows``, or on ``batches``.

        ``batches`` is called again, for smaller ones, when memory runs out. Every process scores
        all of these batches; otherwise the processes divide the samples among themselves.
        """
        kind, aggregate = self._fisher_kind, self.options.aggregate

        def score() -> Scores:
            if batches is None:
                found = self._pass([kind], self.sample.batches(rows), self.sample.share)
            else:
                found = self._pass([kind], batches(), ALONE)
            return fisher_units(found, aggregate)

        if kind == "diagonal" and batches is None and rows is None:
            return self.sample.retry_with_smaller_batches(
                lambda: self._by_halves(kind)[Method.FISHER]
            )
        return self.sample.retry_with_smaller_batches(score)

    def gradients(self) -> dict[Method, Scores]:
        """The scores of the mean gradient, at the dataset's labels."""
        return self.sample.retry_with_smaller_batches(lambda: self._by_halves("means"))

    @property
    def _fisher_kind(self) -> Statistic:
        return "diagonal" if self.options.aggregate is Aggregate.FROBENIUS else "traces"

    def _by_halves(self, *kinds: Statistic) -> dict[Method, Scores]:
        """Score one half of the samples, offload its sums, and score the other half.

        In this way memory holds one sum of the parameters' size, as a training step does.
        """
        objective, share = self.objective, self.sample.share
        if kinds == ("means",):  # always at the dataset's labels
            objective = Objective(self.problem, scale=objective.scale)
        first, second = self.sample.halves()
        halves = (
            self._pass(kinds, self.sample.batches(first), share, objective).offloaded(),
            self._pass(
                kinds, self.sample.batches(second), share, objective, len(first)
            ).offloaded(),
        )
        scores = {}
        if self._fisher_kind in kinds:
            scores[Method.FISHER] = _of_halves(*halves, self.options.aggregate)
        if halves[0].means is not None and halves[1].means is not None:
            means, sizes = (halves[0].means, halves[1].means), (len(first), len(second))
            scores |= gradient_scores(means, self.ranked, sizes)
        return scores

    def tangent(self) -> Scores:
        """Every process scores all samples, because the kernels need every pair of them."""

        def score() -> Scores:
            batches, tell = list(whole.batches()), partial(self._tell, 0)
            found, self.path, warnings = tangent_scores(
                self.loaded.model,
                self.ranked,
                batches,
                self.problem,
                seed=self.options.seed,
                on_batch=tell,
            )
            self._warn(warnings)
            return found

        whole = self.sample.whole()
        return whole.retry_with_smaller_batches(score)

    def gradient_free(self, method: Method) -> Scores:
        """The scores of a method that takes no gradient."""
        if method is Method.WEIGHT_SNR:
            return weight_snr(self.loaded.model, self.ranked)
        if method is Method.CLS_SIMILARITY:
            whole, (model, blocks) = self.sample.whole(), (self.loaded.model, self.loaded.blocks)
            return whole.retry_with_smaller_batches(
                lambda: cls_similarity(model, blocks, whole.batches())
            )
        return by_position(self.ranked, method, self.options.seed)

    @property
    def plan(self) -> Plan:
        """Made once, on the same rows in every process; neither head nor labels change it."""
        if self._plan is None:
            first = next(iter(self.sample.whole().batches()))
            self._plan = plan_for(self.model, self.units, first, self.objective)
        return self._plan

    def _pass(
        self,
        kinds: Collection[Statistic],
        batches: Iterable[Batch],
        share: Share,
        objective: Objective | None = None,
        before: int = 0,
    ) -> FisherScores:
        """Score some batches; the progress counts from ``before``, the samples scored earlier."""
        found = score_samples(
            self.model,
            self.plan,
            batches,
            objective or self.objective,
            kinds=kinds,
            share=share,
            samples=len(self.sample),
            on_batch=partial(self._tell, before),
        )
        self.path = found.path
        self._warn(found.warnings)
        return found

    def _tell(self, before: int, done: int) -> None:
        total = len(self.sample)
        self.report.step(min(total, before + done * self.sample.share.world), total, "samples")

    def _warn(self, warnings: Sequence[JobWarning]) -> None:
        self.warnings += [each for each in warnings if each not in self.warnings]


def ranked_only(scores: Scores) -> Scores:
    """The scores without those of the groups beside the layers."""
    return scores.only([place for place, unit in enumerate(scores.units) if unit.ranked])


def _of_halves(first: FisherScores, second: FisherScores, aggregate: Aggregate) -> Scores:
    if first.per_sample is None or second.per_sample is None:
        return frobenius_of_halves(first, second)
    numbers = first.numbers + second.numbers
    order = torch.tensor(numbers).argsort()
    rows = torch.cat([first.per_sample, second.per_sample])[order]
    return fisher_units(replace(first, numbers=sorted(numbers), per_sample=rows), aggregate)
