"""Do scores of layers foretell what tuning each layer alone gains? Torch-free."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean

from surgery.comparison_results import ArmPlan, LayerGain, MethodAgreement, SeedMean, SingleLayers
from surgery.intervals import Interval, kendall, spearman
from surgery.results import MethodScores, RankingResult
from surgery.terms import Method, Policy

RESAMPLES = 1000
REGRET_AT = (1, 2)
MIN_SEEDS = 3  # fewer have no resamples worth an interval
DEFAULT = Method.FISHER  # what the other methods are judged against
Draws = Sequence[float | None]  # a correlation for each resample
Metrics = Mapping[str, Mapping[int, float]]  # by arm, then by seed


def single_layers(
    arms: Sequence[ArmPlan], metrics: Metrics, ranking: tuple[str, RankingResult] | None
) -> SingleLayers:
    """Gains by layer, and each method's agreement with them.

    A gain is the metric of the arm that trains the layer alone, less that of the arm that trains
    the head only with the same seed, where there is such an arm.
    """
    layers = {arm.name: (arm.layers or [""])[0] for arm in arms if arm.single}
    heads = [arm.name for arm in arms if _is_head(arm) and metrics[arm.name]]
    baseline = heads[0] if heads else None
    less = metrics[baseline] if baseline else None
    gains = {layer: _gains(metrics[arm], less) for arm, layer in layers.items()}
    shown = [
        LayerGain(layer=layer, arm=arm, gain=SeedMean.of(list(gains[layer].values())))
        for arm, layer in layers.items()
    ]
    measured = {layer: seeds for layer, seeds in gains.items() if seeds}
    table = ranking[1].methods if ranking else None
    entries = table.methods if table else []
    default = next((entry for entry in entries if entry.method == DEFAULT), None)
    found = [agreement(entry, measured, default) for entry in entries]
    found.sort(key=lambda entry: 2.0 if entry.spearman is None else -entry.spearman)
    return SingleLayers(
        ranking=ranking[0] if ranking else None, baseline=baseline, layers=shown, methods=found,
        recommended=next((entry.method for entry in found if _is_better(entry)), None),
    )  # fmt: skip


def _is_better(entry: MethodAgreement) -> bool:
    """Clearly than the default, and than nothing."""
    against = entry.minus_fisher_ci
    return against is not None and against[0] > 0 and (entry.spearman or 0) > 0


def _gains(own: Mapping[int, float], less: Mapping[int, float] | None) -> dict[int, float]:
    """By seed, of the seeds that both have: what they share, the data's order say, drops out."""
    if less is None:
        return dict(own)
    return {seed: metric - less[seed] for seed, metric in own.items() if seed in less}


def _is_head(arm: ArmPlan) -> bool:
    return arm.policy is Policy.HEAD_ONLY and arm.adapter is None


def agreement(
    entry: MethodScores,
    gains: Mapping[str, Mapping[int, float]],
    default: MethodScores | None = None,
) -> MethodAgreement:
    """One method's scores beside the gains by layer and seed, and beside the default's scores."""
    layers = list(gains)
    scores = [entry.scores[layer] for layer in layers]
    means = [fmean(gains[layer].values()) for layer in layers]
    by_seed = [gains[layer] for layer in layers]
    against = None
    if default is not None and default.method != entry.method:
        others = spearman_draws([default.scores[layer] for layer in layers], by_seed)
        against = interval(_differences(spearman_draws(scores, by_seed), others))
    return MethodAgreement(
        method=entry.method,
        spearman=spearman(scores, means),
        spearman_ci=interval(spearman_draws(scores, by_seed)),
        minus_fisher_ci=against,
        kendall=kendall(scores, means),
        regret=regret(entry.order, dict(zip(layers, means, strict=True))),
    )


def _differences(one: Draws, two: Draws) -> Draws:
    """Of the same resamples."""
    return [None if a is None or b is None else a - b for a, b in zip(one, two, strict=True)]


def regret(order: Sequence[str], gains: Mapping[str, float]) -> dict[str, float]:
    """By k, the best gain of all less the best among the first k that were measured."""
    known = [gains[layer] for layer in order if layer in gains]
    if not known:
        return {}
    return {str(k): max(known) - max(known[:k]) for k in REGRET_AT if k <= len(known)}


def spearman_draws(scores: Sequence[float], gains: Sequence[Mapping[int, float]]) -> Draws:
    """For each resample of the seeds that every layer has; the same resamples at each call."""
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
    """95 % percentile interval; None without a resample."""
    values = sorted(value for value in draws if value is not None)
    if not values:
        return None
    last = len(values) - 1
    return values[round(0.025 * last)], values[round(0.975 * last)]
