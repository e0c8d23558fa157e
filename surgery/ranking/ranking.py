"""Rank the layers of a loaded model on a dataset, and say how far the ranking can be trusted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np

from surgery.data.tokens.dataset import TaskData
from surgery.heads.features import HeadFeatures
from surgery.heads.prepare import prepare_head, untouched
from surgery.io.reporter import Quiet, Reporter
from surgery.models.blocks import Unit
from surgery.models.distributed import broadcast_weights, present_share
from surgery.models.lengths import token_lengths, truncation_warnings
from surgery.models.loading import LoadedModel, renew_head
from surgery.models.numerics import has_bfloat16
from surgery.ranking.agreement import model_prior
from surgery.ranking.looks import ERROR_RATE, Look, look, planned_looks
from surgery.ranking.paper import ROWS, paper_scores
from surgery.ranking.sample import Sample, training_rows
from surgery.ranking.scorer import Scorer, ranked_only
from surgery.ranking.scores import Matrix, Scores, average, from_samples
from surgery.ranking.shuffled import minus_shuffled
from surgery.ranking.uncertainty import (
    Resamples,
    fewest_holding_half,
    intervals,
    kendall_tau,
    order_of,
    resampled,
    stability_of,
    top_k_probabilities,
    top_k_set_probability,
)
from surgery.schemas import JobWarning
from surgery.schemas.enums import METHODS, Method, Precision
from surgery.schemas.jobs.ranking import (
    AdaptiveReport,
    AdaptiveRound,
    GroupScore,
    HeadSpread,
    LayerScore,
    MethodScores,
    MethodTable,
    RankingOptions,
    RankingResult,
    RecommendedK,
    Stability,
)
from surgery.schemas.options.head import HeadReport


def ranked_result(
    scores: Scores, units: Sequence[Unit], options: RankingOptions, samples: int
) -> RankingResult:
    """The ranking of all ranked units; the other units are listed separately."""
    ranked = scores.only([place for place, unit in enumerate(scores.units) if unit.ranked])
    resamples = resampled(ranked, options.bootstrap, options.seed)
    layers = layer_scores(ranked, resamples)
    stability = stability_of(ranked, resamples, options.seed)
    fisher = options.method in {Method.FISHER, Method.ALL}
    return RankingResult(
        method=options.method,
        aggregate=options.aggregate if fisher else None,
        fisher=options.fisher if fisher else None,
        minus=options.minus,
        granularity=options.granularity,
        precision=options.precision or Precision.FP32,
        samples=samples,
        path=None,
        layers=layers,
        groups=_groups(scores, units),
        stability=stability,
        recommended_k=recommend_k(layers, stability, options.method),
        head=None,
        warnings=[],
        seconds={},
    )


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
    """The entries of a ranking, best first."""
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
            p_top_k=None if p_top is None else _by_k(p_top[:, place]),
            parameters=scores.units[place].parameters,
            unbiased=None if scores.unbiased is None else float(scores.unbiased[place]),
        )
        for rank, place in enumerate(order_of(values).tolist())
    ]


def _by_k(probabilities: Matrix) -> dict[str, float]:
    return {str(k): float(probability) for k, probability in enumerate(probabilities, 1)}


def recommend_k(layers: Sequence[LayerScore], stability: Stability, method: Method) -> RecommendedK:
    """The smallest k whose layers hold half of the total score, and how sure that set is."""
    if not METHODS[method].weighs:
        half = (len(layers) + 1) // 2
        reason = f"half of the layers: {method} gives an order and no weights"
        return RecommendedK(k=half, reason=reason)
    k = fewest_holding_half([layer.share for layer in layers])
    if k is None:
        return RecommendedK(k=len(layers), reason="no score is positive: no layer stands out")
    reason = "smallest k with at least half of the total score"
    if stability.ambiguous_k and k in stability.ambiguous_k:
        reason += "; which layers these are is not certain, more samples may tell"
    return RecommendedK(k=k, reason=reason)


def method_table(scores: Mapping[Method, Scores], options: RankingOptions) -> MethodTable:
    """The order of each method, and the rank correlation of each pair of methods."""
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


@dataclass
class Phases:
    """Announces each phase to the reporter, and adds up the seconds that it takes."""

    report: Reporter
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Time one phase; further calls for the same phase are added to it."""
        self.report.phase(phase)
        began = time.perf_counter()
        yield
        spent = time.perf_counter() - began
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 3)


@dataclass
class Heads:
    """The scores through each head, and a report on the first head.

    ``alike``: the others have converged to the same head as the first.
    """

    scores: list[dict[Method, Scores]]
    report: HeadReport | None = None
    features: HeadFeatures | None = None
    alike: bool = False
    adaptive: AdaptiveReport | None = None


def rank_layers(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, report: Reporter | None = None
) -> RankingResult:
    """Rank the blocks of a loaded model, or their parts, on the training rows of a dataset.

    The head of ``loaded`` is warmed up in place; the weights of the encoder do not change. In a
    group of processes (torchrun) each one scores its share of the rows, and all get the whole
    result. Raises SurgeryError if the options do not fit the model or the data, ScoresNotFinite,
    OutOfMemory, and Stopped when the reporter requests it.
    """
    device = next(loaded.model.parameters()).device
    if options.precision is None and options.scores_in_precision and has_bfloat16(device):
        options = options.model_copy(update={"precision": Precision.BF16})
    phases = Phases(report or Quiet())
    if options.method is Method.PAPER_COMPAT:
        return _rank_as_released(loaded, data, options, phases)
    with phases.timed("tokenize"):
        scorer = open_scorer(loaded, data, options, phases.report)
        lengths = token_lengths(scorer.sample.encoded, loaded, options.max_length)
    if METHODS[options.method].needs_head:
        heads = _score_through_heads(scorer, data, phases)
    else:
        with phases.timed("score"):
            heads = Heads([{options.method: scorer.gradient_free(options.method)}])
    with phases.timed("bootstrap"):
        result, main = _ranked_by_mean(heads, scorer)
    if options.model_prior and result.fisher is not None:
        with phases.timed("prior"):
            ridge = None if heads.report is None else heads.report.ridge
            result.model_prior = model_prior(scorer, heads.features, ridge, ranked_only(main))
    result.path, result.head, result.adaptive = scorer.path, heads.report, heads.adaptive
    result.processes = scorer.sample.share.world
    result.warnings = scorer.warnings + _warnings(result, options, data)
    if heads.alike and options.head_seeds > 1:
        result.warnings.append(
            JobWarning(
                code="head_seeds_alike",
                message="heads of one layer converge to the same head, so head_seeds changed "
                "nothing",
                remedy="set head.fit to epochs, with which heads differ, or leave head_seeds out",
            )
        )
    if result.samples:
        result.lengths = lengths
        result.warnings += truncation_warnings(lengths, options.max_length)
    result.seconds = phases.seconds
    return result


def open_scorer(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, report: Reporter
) -> Scorer:
    """Choose and tokenise the rows that are scored."""
    encoded = training_rows(loaded, data, options.samples, options.max_length, options.seed)
    device = next(loaded.model.parameters()).device
    sample = Sample(encoded, device, options.batch_size, present_share())
    return Scorer(loaded, sample, data.problem, options, report)


def _score_through_heads(scorer: Scorer, data: TaskData, phases: Phases) -> Heads:
    """Score through the loaded head, which is trained first if it is new, and through others."""
    loaded, options = scorer.loaded, scorer.options
    heads = Heads([])
    for number in range(options.head_seeds):
        with phases.timed("warmup"):
            trained = options.head.training_of(new=bool(loaded.new)) != "none"
            if trained and heads.features is None:  # all heads share one run of the encoder
                heads.features = _open_features(loaded, data, options, phases.report)
            _prepare_head(scorer, heads, number)
        with phases.timed("score"):
            if options.adaptive:
                scores, heads.adaptive = score_until_certain(scorer)
                heads.scores.append({Method.FISHER: scores})
            else:
                heads.scores.append(scorer.scores())
        if options.minus is not None:
            with phases.timed("minus"):
                heads.scores[number] = _minus_shuffled(scorer, data, heads)
    return heads


def _minus_shuffled(scorer: Scorer, data: TaskData, heads: Heads) -> dict[Method, Scores]:
    [own] = heads.scores
    ridge = None if heads.report is None else heads.report.ridge
    found = minus_shuffled(scorer, data, own[Method.FISHER], heads.features, ridge)
    return {Method.FISHER: found}


def _prepare_head(scorer: Scorer, heads: Heads, number: int) -> None:
    """Draw a new head, unless it is the first, and train it as the options ask for."""
    loaded, options = scorer.loaded, scorer.options
    seed = options.seed + number
    if number > 0:
        renew_head(loaded.model, seed, loaded.new)
    report, fit = untouched(new=bool(loaded.new)), None
    if heads.features is not None:
        report, fit = prepare_head(heads.features, options.head, new=bool(loaded.new), seed=seed)
    broadcast_weights(loaded.model, scorer.sample.share)
    scorer.head_changed()
    if number == 0:
        heads.report, heads.alike = report, fit is not None and fit.unique


def _open_features(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, report: Reporter
) -> HeadFeatures:
    count, seed = options.head.warmup_samples, options.seed + 1
    encoded = training_rows(loaded, data, count, options.max_length, seed)
    return HeadFeatures(loaded.model, list(loaded.head.values()), encoded, data.problem, report)


def score_until_certain(scorer: Scorer) -> tuple[Scores, AdaptiveReport]:
    """Fisher scores on more and more samples, until the set of the top k is certain."""
    total, world = len(scorer.sample), scorer.sample.share.world
    order = np.random.default_rng(scorer.options.seed).permutation(total)
    ends = planned_looks(total, world)
    rounds: list[AdaptiveRound] = []
    parts: list[Matrix] = []
    certain = False
    for start, end in pairwise([0, *ends]):
        found = scorer.fisher(rows=sorted(order[start:end].tolist()))
        assert found.per_sample is not None
        parts.append(found.per_sample)
        scores = from_samples(found.units, np.concatenate(parts))
        ranked = ranked_only(scores)
        assert ranked.per_sample is not None
        seen = look(ranked.per_sample, len(ends))
        rounds.append(_round(seen, ranked, scorer.options))
        certain = seen.certain
        if certain:
            break
    return scores, AdaptiveReport(certain=certain, error_rate=ERROR_RATE, rounds=rounds)


def _round(seen: Look, ranked: Scores, options: RankingOptions) -> AdaptiveRound:
    resamples = resampled(ranked, options.bootstrap, options.seed)
    assert resamples is not None
    return AdaptiveRound(
        samples=seen.samples,
        k=seen.k,
        probability=top_k_set_probability(ranked.values, resamples.values, seen.k),
        p_value=seen.p_value,
        level=seen.level,
    )


def _ranked_by_mean(heads: Heads, scorer: Scorer) -> tuple[RankingResult, Scores]:
    """The ranking by the mean of the scores over the heads, and that mean.

    If all methods are requested, the ranking is by Fisher and includes the table of all methods.
    """
    options = scorer.options
    by_all = options.method is Method.ALL
    main = Method.FISHER if by_all else options.method
    scores = {
        method: average([head[method] for head in heads.scores]) for method in heads.scores[0]
    }
    rows = len(scorer.sample) if METHODS[main].reads_data else 0
    scored = scores[main].per_sample
    samples = rows if scored is None else len(scored)
    result = ranked_result(scores[main], scorer.units, options, samples)
    if by_all:
        result.methods = method_table(scores, options)
    if len(heads.scores) > 1:
        result.head_spread = _spread(result, [head[main] for head in heads.scores])
    return result, scores[main]


def _spread(result: RankingResult, heads: Sequence[Scores]) -> HeadSpread:
    """How far the heads disagree. Also sets the standard deviation of each layer of the result."""
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


def _warnings(result: RankingResult, options: RankingOptions, data: TaskData) -> list[JobWarning]:
    """Warnings about the head and the number of rows."""
    found = []
    head, classes, samples = result.head, len(data.labels), result.samples
    if head and head.source == "new" and head.fit == "none":
        found.append(
            JobWarning(
                code="head_untrained",
                message="the head is untrained: the ranking depends on the inputs and hardly on "
                "the labels",
                remedy="set head.warmup_epochs above 0, or leave head.fit out",
            )
        )
    learnt = head and head.source == "checkpoint" and head.fit in {"none", "epochs"}
    if options.minus is not None and learnt:
        found.append(
            JobWarning(
                code="head_knows_labels",
                message="the checkpoint's head has learnt labels before, and the shuffled ones are "
                "scored through it too",
                remedy="set head.init to new, for a head that knows no other labels",
            )
        )
    if 0 < samples < options.samples and result.adaptive is None:
        message = f"the train split has {samples} rows; each was scored once"
        remedy = "give more training rows if the intervals are too wide to choose by"
        found.append(JobWarning(code="few_rows", message=message, remedy=remedy))
    if head and classes > 1 and head.fit != "none" and head.warmup_rows < 10 * classes:
        message = "the head was trained on fewer than ten rows a class"
        remedy = "raise head.warmup_samples, or give more training rows"
        found.append(JobWarning(code="few_rows_for_head", message=message, remedy=remedy))
    return found


def _rank_as_released(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, phases: Phases
) -> RankingResult:
    """Rank by the computation of the paper's released code; see `surgery.ranking.paper`."""
    with phases.timed("score"):
        scores, plan = paper_scores(loaded, data, phases.report)
    result = ranked_result(scores, scores.units, options, min(len(data.validation), ROWS))
    result.path, result.seconds = plan.path, phases.seconds
    result.warnings = [
        *plan.warnings,
        JobWarning(
            code="paper_compat",
            message="paper_compat repeats the paper's released code: raw logits, padding attended "
            "to, and validation rows, which a selection should not see",
            remedy="set method to fisher for a ranking to select by",
        ),
    ]
    return result
