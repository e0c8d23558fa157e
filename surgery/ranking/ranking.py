"""From a loaded model and a dataset to a ranking that says how far it can be trusted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import TaskData, choose_rows
from surgery.io.reporter import Quiet, Reporter
from surgery.models.blocks import Unit
from surgery.models.distributed import present_share, same_weights
from surgery.models.lengths import token_lengths, truncation_warnings
from surgery.models.loading import LoadedModel, renew_head
from surgery.models.numerics import has_bfloat16
from surgery.ranking.agreement import model_prior
from surgery.ranking.head import Warmup
from surgery.ranking.paper import ROWS, paper_scores
from surgery.ranking.sample import Sample
from surgery.ranking.scorer import Scorer, ranked_only
from surgery.ranking.scores import Matrix, Scores, average, from_samples
from surgery.ranking.uncertainty import (
    CERTAIN,
    Resamples,
    intervals,
    kendall_tau,
    order_of,
    recommended,
    resampled,
    stability_of,
    top_k_probabilities,
    top_k_set_probability,
)
from surgery.schemas.enums import METHODS, Method, Precision
from surgery.schemas.ranking import (
    AdaptiveReport,
    AdaptiveRound,
    GroupScore,
    HeadReport,
    HeadSpread,
    LayerScore,
    MethodScores,
    MethodTable,
    RankingOptions,
    RankingResult,
    RecommendedK,
    Stability,
)

FIRST_SAMPLES = 32  # of an adaptive ranking; each round doubles them


def ranked_result(
    scores: Scores, units: Sequence[Unit], options: RankingOptions, samples: int
) -> RankingResult:
    """The ranking of the units that are ranked; the others are listed beside it."""
    ranked = scores.only([place for place, unit in enumerate(scores.units) if unit.ranked])
    resamples = resampled(ranked, options.bootstrap, options.seed)
    layers = layer_scores(ranked, resamples)
    stability = stability_of(ranked, resamples, options.seed)
    fisher = options.method in {Method.FISHER, Method.ALL}
    return RankingResult(
        method=options.method, aggregate=options.aggregate if fisher else None,
        fisher=options.fisher if fisher else None, granularity=options.granularity,
        precision=options.precision or Precision.FP32, samples=samples, path=None, layers=layers,
        groups=_groups(scores, units), stability=stability,
        recommended_k=recommend_k(layers, stability, options.method), head=None, warnings=[],
        seconds={},
    )  # fmt: skip


def _groups(scores: Scores, units: Sequence[Unit]) -> list[GroupScore]:
    known = dict(zip([u.name for u in scores.units], scores.values.tolist(), strict=True))
    if not any(not unit.ranked for unit in scores.units):
        return []
    return [
        GroupScore(name=unit.name, score=known.get(unit.name), parameters=unit.parameters)
        for unit in units
        if not unit.ranked
    ]


def layer_scores(scores: Scores, resamples: Resamples | None) -> list[LayerScore]:
    """Best first."""
    values = scores.values
    positive = values.clip(min=0)
    total = float(positive.sum())
    bounds = None if resamples is None else intervals(scores, resamples)
    p_top = None if resamples is None else top_k_probabilities(resamples.values)
    return [
        LayerScore(
            rank=rank + 1,
            name=scores.units[place].name,
            index=scores.units[place].index or 0,
            score=float(values[place]),
            share=float(positive[place]) / total if total > 0 else 0.0,
            ci=None if bounds is None else bounds[place],
            p_top_k=None if p_top is None
            else {str(k + 1): float(row[place]) for k, row in enumerate(p_top)},
            parameters=scores.units[place].parameters,
            unbiased=None if scores.unbiased is None else float(scores.unbiased[place]),
        )
        for rank, place in enumerate(order_of(values).tolist())
    ]  # fmt: skip


def recommend_k(layers: Sequence[LayerScore], stability: Stability, method: Method) -> RecommendedK:
    """The smallest k whose layers hold half of the total score, and how sure that set is."""
    if not METHODS[method].weighs:
        half = (len(layers) + 1) // 2
        reason = f"half of the layers: {method} orders, it does not weigh"
        return RecommendedK(k=half, reason=reason)
    k = recommended([layer.share for layer in layers])
    if k is None:
        return RecommendedK(k=len(layers), reason="no score is positive: no layer stands out")
    reason = "smallest k with at least half of the total score"
    if stability.ambiguous_k and k in stability.ambiguous_k:
        reason += "; which layers these are is not certain, more samples may tell"
    return RecommendedK(k=k, reason=reason)


def method_table(scores: Mapping[Method, Scores], options: RankingOptions) -> MethodTable:
    """Every method's order, and the rank correlation of each pair."""
    ranked = {
        method: found.only([place for place, unit in enumerate(found.units) if unit.ranked])
        for method, found in scores.items()
    }
    entries = []
    for method, found in ranked.items():
        resamples = resampled(found, options.bootstrap, options.seed)
        names = [unit.name for unit in found.units]
        entries.append(
            MethodScores(
                method=method,
                order=[names[place] for place in order_of(found.values).tolist()],
                scores=dict(zip(names, found.values.tolist(), strict=True)),
                stability=stability_of(found, resamples, options.seed),
            )
        )
    taus = {
        str(one): {str(two): kendall_tau(a.values, b.values) for two, b in ranked.items()}
        for one, a in ranked.items()
    }
    return MethodTable(methods=entries, kendall_tau=taus)


def rank_layers(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, report: Reporter | None = None
) -> RankingResult:
    """Rank the blocks of a loaded model, or their parts, on the training rows of a dataset.

    The head of ``loaded`` is warmed up in place; the encoder's weights are not changed. In a group
    of processes (torchrun) each scores its share of the rows and all get the whole result.
    Raises SurgeryError where the options do not fit the model or the data, ScoresNotFinite,
    OutOfMemory, and Stopped when the reporter asks for it.
    """
    device = next(loaded.model.parameters()).device
    if options.precision is None and options.scores_in_precision and has_bfloat16(device):
        options = options.model_copy(update={"precision": Precision.BF16})
    return Ranking(loaded, data, options, report or Quiet()).run()


@dataclass
class Ranking:
    """One ranking on its way: what it works on, and what it noted so far."""

    loaded: LoadedModel
    data: TaskData
    options: RankingOptions
    report: Reporter
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self.report.phase(phase)
        began = time.perf_counter()
        yield
        spent = time.perf_counter() - began
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 3)

    def run(self) -> RankingResult:
        """Every phase in turn."""
        if self.options.method is Method.PAPER_COMPAT:
            return self._paper()
        self.head: HeadReport | None = None
        self.adaptive: AdaptiveReport | None = None
        with self._timed("tokenize"):
            self._open()
        if not METHODS[self.options.method].needs_head:
            with self._timed("score"):
                found = self.scorer.headless(self.options.method)
            return self._result({self.options.method: found}, [])
        heads = [self._through_head(number) for number in range(self.options.head_seeds)]
        scores = {method: average([head[method] for head in heads]) for method in heads[0]}
        return self._result(scores, heads)

    def _open(self) -> None:
        options, loaded = self.options, self.loaded
        rows = choose_rows(len(self.data.train), options.samples, options.seed)
        encoded = encode_split(self.data, "train", loaded.tokenizer, options.max_length, rows)
        device = next(loaded.model.parameters()).device
        sample = Sample(encoded, device, options.batch_size, present_share())
        self.lengths = token_lengths(encoded, loaded, options.max_length)
        self.scorer = Scorer(loaded, sample, self.data.problem, options, self.report)
        self.warmup: Warmup | None = None

    def _through_head(self, number: int) -> dict[Method, Scores]:
        with self._timed("warmup"):
            self._prepare_head(number)
        with self._timed("score"):
            if self.options.adaptive:
                return {Method.FISHER: self._adaptively()}
            return self.scorer.scores()

    def _prepare_head(self, number: int) -> None:
        """The first head is the loaded one; each further one is drawn anew."""
        loaded, options = self.loaded, self.options
        if number > 0:
            renew_head(loaded.model, options.seed + number, loaded.new)
        asked = options.head.warmup_epochs
        epochs = asked if asked is not None else int(bool(loaded.new))
        loss = None
        if epochs:
            loss = self._warm().run(epochs=epochs, seed=options.seed + number)
        same_weights(loaded.model, self.scorer.sample.share)
        self.scorer.head_changed()
        if self.head is None:
            self.head = HeadReport(
                source="new" if loaded.new else "checkpoint", warmup_epochs=epochs,
                warmup_rows=len(self._warm()) if epochs else 0, warmup_loss=loss,
            )  # fmt: skip

    def _warm(self) -> Warmup:
        """The encoder runs over the warm-up rows once, however many heads there are."""
        if self.warmup is None:
            options = self.options
            rows = choose_rows(len(self.data.train), options.head.warmup_samples, options.seed + 1)
            encoded = encode_split(
                self.data, "train", self.loaded.tokenizer, options.max_length, rows
            )
            head = list(self.loaded.head.values())
            self.warmup = Warmup(self.loaded.model, head, encoded, self.data.problem, self.report)
        return self.warmup

    def _adaptively(self) -> Scores:
        """Ever more samples, until the top k are certain."""
        total, world = len(self.scorer.sample), self.scorer.sample.share.world
        order = np.random.default_rng(self.options.seed).permutation(total)
        rounds: list[AdaptiveRound] = []
        parts: list[Matrix] = []
        done = 0
        while True:
            end = max(FIRST_SAMPLES, 2 * done, world)
            end = end if end + world <= total else total  # every process has a part in each round
            found = self.scorer.fisher(rows=sorted(order[done:end].tolist()))
            assert found.per_sample is not None
            parts.append(found.per_sample)
            done = end
            scores = from_samples(found.units, np.concatenate(parts))
            rounds.append(self._certainty(ranked_only(scores)))
            certain = rounds[-1].probability >= CERTAIN
            if certain or done == total:
                self.adaptive = AdaptiveReport(certain=certain, rounds=rounds)
                return scores

    def _certainty(self, scores: Scores) -> AdaptiveRound:
        resamples = resampled(scores, self.options.bootstrap, self.options.seed)
        assert resamples is not None and scores.per_sample is not None  # noqa: PT018
        values = scores.values
        shares = values[order_of(values)] / (values.sum() or 1.0)
        k = recommended(shares.tolist()) or len(values)
        probability = top_k_set_probability(values, resamples.values, k)
        return AdaptiveRound(samples=len(scores.per_sample), k=k, probability=probability)

    def _result(
        self, scores: dict[Method, Scores], heads: list[dict[Method, Scores]]
    ) -> RankingResult:
        options, scorer = self.options, self.scorer
        main = Method.FISHER if options.method is Method.ALL else options.method
        with self._timed("bootstrap"):
            scored = scores[main].per_sample
            rows = len(scorer.sample) if METHODS[main].reads_data else 0
            samples = rows if scored is None else len(scored)
            result = ranked_result(scores[main], scorer.units, options, samples)
            if options.method is Method.ALL:
                result.methods = method_table(scores, options)
            if len(heads) > 1:
                result.head_spread = self._spread(result, [head[main] for head in heads])
        if options.model_prior and main is Method.FISHER:
            with self._timed("prior"):
                ranked = ranked_only(scores[main])
                result.model_prior = model_prior(scorer, self._warm_or_none(), ranked)
        result.path, result.head, result.adaptive = scorer.path, self.head, self.adaptive
        result.processes = scorer.sample.share.world
        result.warnings = scorer.warnings + self._head_warnings(samples)
        if samples:
            result.lengths = self.lengths
            result.warnings += truncation_warnings(self.lengths, options.max_length)
        result.seconds = self.seconds
        return result

    def _warm_or_none(self) -> Warmup | None:
        """A head that was warmed up is warmed up again on shuffled labels."""
        assert self.head is not None
        return self._warm() if self.head.warmup_epochs else None

    def _spread(self, result: RankingResult, heads: list[Scores]) -> HeadSpread:
        """How far the heads disagree; the layers of the result get their deviations."""
        scores = [ranked_only(head) for head in heads]
        deviations = np.std([head.values for head in scores], axis=0, ddof=1)
        by_name = {u.name: float(d) for u, d in zip(scores[0].units, deviations, strict=True)}
        for layer in result.layers:
            layer.head_std = by_name[layer.name]
        taus = [kendall_tau(a.values, b.values) for a, b in combinations(scores, 2)]
        known = [tau for tau in taus if tau is not None]
        return HeadSpread(
            heads=len(heads),
            kendall_tau_mean=float(np.mean(known)) if known else None,
            kendall_tau_min=min(known) if known else None,
        )

    def _head_warnings(self, samples: int) -> list[str]:
        found = []
        head, labels = self.head, self.data.labels
        if head and head.source == "new" and head.warmup_epochs == 0:
            found.append(
                "the head is untrained: the ranking depends on the inputs and hardly on the labels"
            )
        if 0 < samples < self.options.samples and self.adaptive is None:
            found.append(f"the train split has {samples} rows; each was scored once")
        if head and len(labels) > 1 and head.warmup_epochs and head.warmup_rows < 10 * len(labels):
            found.append("fewer than ten warm-up rows a class")
        return found

    def _paper(self) -> RankingResult:
        """The paper's released computation; see `surgery.ranking.paper`."""
        with self._timed("score"):
            scores, plan = paper_scores(self.loaded, self.data, self.report)
        rows = min(len(self.data.validation), ROWS)
        result = ranked_result(scores, scores.units, self.options, rows)
        result.path, result.seconds = plan.path, self.seconds
        result.warnings = [
            *plan.warnings,
            (
                "paper_compat repeats the paper's released code: raw logits, padding attended to, "
                "and validation rows, which a selection should not see"
            ),
        ]
        return result
