"""Which arm of a comparison to take, in pure Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from surgery.evaluation.decision.pairs import ERROR_RATE, Pair, adjusted, needed
from surgery.evaluation.decision.words import summary_of
from surgery.schemas.decision import AgainstBest, Decision, Outcome
from surgery.schemas.jobs.comparison import ArmReport, ComparisonResult, RunReport

HIGHEST = 1.0  # no metric by which runs are compared can be higher
# Standard errors within which a mean counts as at the ceiling, or at the baseline. Of an accuracy
# this is a ceiling of some four wrong rows, however many there are.
CLOSE = 2.0
# What a constant reaches by metrics that are not defined for it: no correlation.
NO_CORRELATION = ("matthews_correlation", "pearson", "spearman")


@dataclass(frozen=True)
class Evidence:
    """What a decision goes by, beside the table.

    ``noise`` has the standard error of each arm's metric that is due to the validation rows, of
    which there are ``rows``; ``baseline`` is the metric of a constant prediction. All may be
    unknown.
    """

    noise: Mapping[str, float | None]
    baseline: float | None = None
    rows: int | None = None

    def error(self, arm: str) -> float:
        """The standard error of an arm's metric due to the rows; 0 if it is unknown."""
        return self.noise.get(arm) or 0.0


def decide(table: ComparisonResult, evidence: Evidence) -> Decision:
    """The decision on a table whose arms are complete."""
    arms = [arm for arm in table.arms if arm.same_as is None and arm.metric is not None]
    baseline = evidence.baseline
    if baseline is None and table.primary_metric in NO_CORRELATION:
        baseline = 0.0
    if not arms:
        return _without_a_value(table, baseline)
    best = min(arms, key=lambda arm: (-_mean(arm), _seconds(arm)))
    others = [_against(best, arm, len(arms), evidence) for arm in arms if arm is not best]
    left = [best, *(a for a in arms for o in others if o.arm == a.name and not o.told_apart)]
    cheapest = min(left, key=lambda arm: (_seconds(arm), arm.trainable_parameters or 0))
    outcome = _outcome(arms, others, evidence, baseline)
    run = None if outcome == "baseline" else _best_run(cheapest)
    decision = Decision(
        outcome=outcome,
        best=best.name,
        not_told_apart=[arm.name for arm in left if arm is not best],
        cheapest=cheapest.name,
        relative_cost=_relative_cost(cheapest, best),
        job=run.job if run else None,
        checkpoint=run.checkpoint if run else None,
        others=others,
        baseline=baseline,
        error_rate=ERROR_RATE,
        summary="",
    )
    return decision.model_copy(update={"summary": summary_of(decision, table)})


def _mean(arm: ArmReport) -> float:
    assert arm.metric is not None, "arms without a value are left out"
    return arm.metric.mean


def _seconds(arm: ArmReport) -> float:
    """The seconds of training and of choosing the rate, as the table shows them."""
    train = arm.seconds.get("train")
    return math.inf if train is None else train + arm.seconds.get("rates", 0.0)


def _best_run(arm: ArmReport) -> RunReport:
    known = [(run.metric, -run.seed, run) for run in arm.runs if run.metric is not None]
    return max(known, key=lambda each: each[:2])[2]


def _against(best: ArmReport, arm: ArmReport, arms: int, evidence: Evidence) -> AgainstBest:
    high, low = _by_seed(best), _by_seed(arm)
    shared = [high[seed] - low[seed] for seed in high if seed in low]
    pair = Pair(shared, math.hypot(evidence.error(best.name), evidence.error(arm.name)))
    plain = pair.p_value()
    p_value = None if plain is None else adjusted(plain, arms)
    # Seeds that one of both lacks can turn the difference round.
    apart = p_value is not None and p_value <= ERROR_RATE and pair.mean > 0
    return AgainstBest(
        arm=arm.name,
        difference=fmean(shared) if shared else None,
        p_value=p_value,
        told_apart=apart,
        needed=None if apart else needed(pair, arms, evidence.rows),
    )


def _by_seed(arm: ArmReport) -> dict[int, float]:
    return {run.seed: run.metric for run in arm.runs if run.metric is not None}


def _outcome(
    arms: Sequence[ArmReport],
    others: Sequence[AgainstBest],
    evidence: Evidence,
    baseline: float | None,
) -> Outcome:
    told = sum(other.told_apart for other in others)
    if baseline is not None and all(
        _mean(arm) - baseline <= CLOSE * evidence.error(arm.name) + 1e-9 for arm in arms
    ):
        return "baseline"
    if not others:
        return "one_way"
    if told == 0 and all(
        HIGHEST - _mean(arm) <= CLOSE * evidence.error(arm.name) + 1e-9 for arm in arms
    ):
        return "ceiling"
    if told == len(others):
        return "winner"
    return "shortlist" if told else "undecided"


def _relative_cost(arm: ArmReport, best: ArmReport) -> dict[str, float]:
    """Each cost of an arm over that of the best one; costs that are unknown are left out."""
    pairs = {
        "seconds": (_seconds(arm), _seconds(best)),
        "trainable_parameters": (arm.trainable_parameters, best.trainable_parameters),
        "peak_memory_bytes": (arm.peak_memory_bytes, best.peak_memory_bytes),
    }
    known = {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b}
    return {name: round(a / b, 4) for name, (a, b) in known.items() if math.isfinite(a / b)}


def _without_a_value(table: ComparisonResult, baseline: float | None) -> Decision:
    """The decision where runs succeeded, and the metric of none is defined."""
    decision = Decision(
        outcome="baseline",
        best=None,
        not_told_apart=[],
        cheapest=None,
        relative_cost={},
        job=None,
        checkpoint=None,
        others=[],
        baseline=baseline,
        error_rate=ERROR_RATE,
        summary="",
    )
    return decision.model_copy(update={"summary": summary_of(decision, table)})
