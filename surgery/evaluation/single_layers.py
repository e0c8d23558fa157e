"""How well the scores of layers predict what tuning each layer alone gains."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean

from surgery.evaluation.statistics import (
    Interval,
    holm,
    kendall,
    permutation_p_value,
    seed_mean,
    spearman,
)
from surgery.schemas.enums import Method, Policy
from surgery.schemas.jobs.comparison import ArmPlan, LayerGain, MethodAgreement, SingleLayers
from surgery.schemas.jobs.ranking import MethodScores, RankingResult

RESAMPLES = 1000
REGRET_AT = (1, 2)
MIN_SEEDS = 3  # with fewer, resamples give no useful interval
DEFAULT = Method.FISHER  # the method that the others are compared with
ERROR_RATE = 0.05  # of the recommendation, for all methods together
Draws = Sequence[float | None]  # one correlation for each resample
Metrics = Mapping[str, Mapping[int, float]]  # by arm, then by seed


def single_layers(
    arms: Sequence[ArmPlan], metrics: Metrics, ranking: tuple[str, RankingResult] | None
) -> SingleLayers:
    """The gain of each layer, and how well each method agrees with these gains.

    A gain is the metric of the arm that trains this layer alone. If an arm trains only the head,
    the metric of that arm with the same seed is subtracted.
    """
    layers = {arm.name: (arm.layers or [""])[0] for arm in arms if arm.single}
    heads = [arm.name for arm in arms if _is_head(arm) and metrics[arm.name]]
    baseline = heads[0] if heads else None
    less = metrics[baseline] if baseline else None
    gains = {layer: _gains(metrics[arm], less) for arm, layer in layers.items()}
    shown = [
        LayerGain(layer=layer, arm=arm, gain=seed_mean(list(gains[layer].values())))
        for arm, layer in layers.items()
    ]
    measured = {layer: seeds for layer, seeds in gains.items() if seeds}
    table = ranking[1].methods if ranking else None
    found = agreements(table.methods if table else [], measured)
    return SingleLayers(
        ranking=ranking[0] if ranking else None,
        baseline=baseline,
        layers=shown,
        methods=found,
        recommended=recommended_method(found),
        error_rate=ERROR_RATE,
    )


def recommended_method(found: Sequence[MethodAgreement]) -> str | None:
    """The best method that is clearly better than both the default and chance, if there is one.

    The interval of its difference to the default, over the seeds, must lie above zero, and its
    adjusted p value must be at most ``ERROR_RATE``. Random scores are never recommended.
    """
    clear = (
        entry.method
        for entry in found
        if entry.minus_fisher_ci is not None
        and entry.minus_fisher_ci[0] > 0
        and entry.adjusted_p_value is not None
        and entry.adjusted_p_value <= ERROR_RATE
    )
    return next(clear, None)


def _gains(own: Mapping[int, float], less: Mapping[int, float] | None) -> dict[int, float]:
    """Differences by seed, which cancel what runs of a seed share: the order of the data, say."""
    if less is None:
        return dict(own)
    return {seed: metric - less[seed] for seed, metric in own.items() if seed in less}


def _is_head(arm: ArmPlan) -> bool:
    return arm.policy is Policy.HEAD_ONLY and arm.adapter is None


def agreements(
    entries: Sequence[MethodScores], gains: Mapping[str, Mapping[int, float]]
) -> list[MethodAgreement]:
    """The agreement of each method's scores with the gains by layer and seed, best first."""
    layers, by_seed = list(gains), list(gains.values())
    means = [fmean(own.values()) for own in by_seed]
    scores = {entry.method: [entry.scores[layer] for layer in layers] for entry in entries}
    draws = {method: spearman_draws(own, by_seed) for method, own in scores.items()}
    found = []
    for entry in entries:
        method, own = entry.method, scores[entry.method]
        against = _differences(draws[method], draws[DEFAULT]) if method != DEFAULT else []
        correlation = spearman(own, means)
        agreement = MethodAgreement(
            method=method,
            spearman=correlation,
            spearman_ci=interval(draws[method]),
            p_value=None if correlation is None else permutation_p_value(own, means),
            minus_fisher_ci=interval(against),
            kendall=kendall(own, means),
            regret=regret(entry.order, dict(zip(layers, means, strict=True))),
        )
        found.append(agreement)
    _adjust(found)
    found.sort(key=lambda entry: 2.0 if entry.spearman is None else -entry.spearman)
    return found


def _adjust(found: Sequence[MethodAgreement]) -> None:
    """Set the p values that pay for the number of methods which could be recommended."""
    judged = {
        entry.method: entry.p_value
        for entry in found
        if entry.method not in {DEFAULT, Method.RANDOM} and entry.p_value is not None
    }
    adjusted = holm(judged)
    for entry in found:
        entry.adjusted_p_value = adjusted.get(entry.method)


def _differences(one: Draws, two: Draws) -> Draws:
    """The differences between two methods on the same resamples."""
    return [None if a is None or b is None else a - b for a, b in zip(one, two, strict=True)]


def regret(order: Sequence[str], gains: Mapping[str, float]) -> dict[str, float]:
    """By k: the best gain of all, less the best gain among the first k measured layers."""
    known = [gains[layer] for layer in order if layer in gains]
    if not known:
        return {}
    return {str(k): max(known) - max(known[:k]) for k in REGRET_AT if k <= len(known)}


def spearman_draws(scores: Sequence[float], gains: Sequence[Mapping[int, float]]) -> Draws:
    """Spearman's correlation on each resample of the seeds that all layers have.

    Every call draws the same resamples.
    """
    seeds = sorted(set.intersection(*(set(own) for own in gains))) if gains else []
    if len(seeds) < MIN_SEEDS:
        return []
    source = random.Random(0)  # noqa: S311
    drawn = [tuple(sorted(source.choices(seeds, k=len(seeds)))) for _ in range(RESAMPLES)]
    by_draw = {
        seeds_drawn: spearman(scores, [fmean(own[seed] for seed in seeds_drawn) for own in gains])
        for seeds_drawn in set(drawn)  # few seeds have few distinct draws
    }
    return [by_draw[draw] for draw in drawn]


def interval(draws: Draws) -> Interval | None:
    """The 95 % percentile interval; None without resamples."""
    values = sorted(value for value in draws if value is not None)
    if not values:
        return None
    last = len(values) - 1
    return values[round(0.025 * last)], values[round(0.975 * last)]
