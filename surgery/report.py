"""Scores as the result of a ranking: places, shares, intervals, and how many layers to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery.results import (
    GroupScore,
    LayerScore,
    MethodScores,
    MethodTable,
    RankingResult,
    RecommendedK,
    Stability,
)
from surgery.scores import Scores
from surgery.spec import RankingOptions
from surgery.terms import ORDER_ONLY, Method, Precision
from surgery.uncertainty import (
    Resamples,
    intervals,
    kendall_tau,
    order_of,
    recommended,
    resampled,
    stability_of,
    top_k_probabilities,
)
from surgery.units import Unit


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
    if method in ORDER_ONLY:
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
