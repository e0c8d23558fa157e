"""The table of a comparison: its arms side by side, with differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from surgery.evaluation.decision.decide import Evidence, decide
from surgery.evaluation.learning import OF_LEARNING
from surgery.evaluation.single_layers import single_layers
from surgery.evaluation.statistics import holm, normal_p_value, seed_mean, t_p_value
from surgery.schemas import JobWarning
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import (
    ArmPlan,
    ArmReport,
    ComparisonResult,
    RunReport,
    SeedMean,
)
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.ranking import RankingResult

Json = dict[str, Any]
Verdict = Literal["better", "worse", "within noise"]
ERROR_RATE = 0.05  # of the verdicts of one comparison together
UNDEFINED: Json = {
    "code": "metric_undefined",
    "detail": "the metric is not defined on what the model predicted, the same for every row, say",
}


@dataclass(frozen=True)
class FinetuneRun:
    """A finished fine-tune of a comparison."""

    arm: str
    seed: int
    job: str
    status: str
    result: FinetuneResult | None = None
    error: Json | None = None
    checkpoint_bytes: int | None = None

    @property
    def metric(self) -> float | None:
        """The primary metric at the best evaluation."""
        return self.result.best.metrics[self.result.primary_metric] if self.result else None

    def report(self) -> RunReport:
        """The run as a result shows it."""
        undefined = UNDEFINED if self.result and self.metric is None else None
        return RunReport(
            job=self.job,
            seed=self.seed,
            status=self.status,
            metric=self.metric,
            learning_rate=self.result.learning_rate if self.result else None,
            checkpoint=self.result.best_checkpoint if self.result else None,
            error=self.error or undefined,
            warnings=self.result.warnings if self.result else [],
        )


def comparison_table(
    arms: Sequence[ArmPlan],
    runs: Sequence[FinetuneRun],
    ranking: tuple[str, RankingResult] | None = None,
    rows: int | None = None,
) -> ComparisonResult:
    """The table of all runs, of which at least one must have a result, and what it comes to.

    ``ranking`` is the ranking by every method that the gains of single layers are compared with,
    together with its id; ``rows`` is the number of validation rows, if that is known.
    """
    by_arm = {
        arm.name: [run for run in runs if run.arm == (arm.same_as or arm.name)] for arm in arms
    }
    metrics = {
        name: {run.seed: run.metric for run in own if run.metric is not None}
        for name, own in by_arm.items()
    }
    results = [run.result for run in runs if run.result]
    reference = _reference(arms, metrics)
    noise = _noise(runs)
    table = ComparisonResult(
        primary_metric=results[0].primary_metric,
        reference=reference,
        noise=noise,
        **_constant(results),
        error_rate=ERROR_RATE,
        arms=_arms(arms, by_arm, metrics, reference, noise),
        failures=[report for run in runs if (report := run.report()).metric is None],
        single_layers=single_layers(arms, metrics, ranking) if _single(arms) else None,
        runs=len(runs),
        seconds=round(sum(result.seconds["total"] for result in results), 3),
        warnings=[
            *_shared_rate(arms, metrics, reference),
            *_warnings(results, noise, metrics),
            *_of_arms(arms, by_arm),
        ],
    )
    noises = {name: _noise(own) for name, own in by_arm.items()}
    baseline = table.baseline.get(table.primary_metric)
    table.decision = decide(table, Evidence(noises, baseline, rows))
    return table


def _constant(results: Sequence[FinetuneResult]) -> Json:
    """What a constant prediction reaches: means over the runs."""
    return {
        "baseline": _means([result.baseline for result in results]),
        "baseline_loss": _mean([result.baseline_loss for result in results]),
        "baseline_also": {
            preset: _means([result.baseline_also.get(preset, {}) for result in results])
            for preset in results[0].baseline_also
        },
    }


def _noise(runs: Sequence[FinetuneRun]) -> float | None:
    return _mean([run.result.best.noise for run in runs if run.result])


def _arms(
    arms: Sequence[ArmPlan],
    runs: Mapping[str, Sequence[FinetuneRun]],
    metrics: Mapping[str, Mapping[int, float]],
    reference: str,
    noise: float | None,
) -> list[ArmReport]:
    """The reports of all arms, of which those that share runs are one: it is tested once."""
    distinct = {arm.name: metrics[arm.name] for arm in arms if arm.same_as is None}
    shared = next(arm.same_as for arm in arms if arm.name == reference)
    differences = paired_differences(distinct, shared or reference)
    judged = verdicts(differences, noise)
    reports = []
    for arm in arms:
        own = arm.same_as or arm.name
        difference = seed_mean(differences.get(own, []))
        reports.append(_arm(arm, runs[arm.name], metrics, difference, judged.get(own)))
    return reports


def _single(arms: Sequence[ArmPlan]) -> bool:
    return any(arm.single for arm in arms)


def _reference(arms: Sequence[ArmPlan], metrics: Mapping[str, Mapping[int, float]]) -> str:
    measured = [arm for arm in arms if metrics[arm.name]] or list(arms)
    whole = [arm for arm in measured if arm.policy is Policy.ALL]
    return (whole or measured)[0].name


def _shared_rate(
    arms: Sequence[ArmPlan], metrics: Mapping[str, Mapping[int, float]], reference: str
) -> list[JobWarning]:
    """A warning if arms share the learning rate of the reference, which may explain differences.

    Arms whose runs choose among several rates share none.
    """
    measured = [arm for arm in arms if metrics[arm.name]]
    rate = next((arm.learning_rate for arm in measured if arm.name == reference), None)
    same = [arm.name for arm in measured if arm.learning_rate == rate]
    if rate is None or len(same) < 2:
        return []
    which = "all arms" if len(same) == len(measured) else f"{', '.join(same[:-1])} and {same[-1]}"
    message = (
        f"{which} trained at one learning rate, {rate:g}: a rate that suits a few layers can be "
        "too high for all of them, so a difference between these arms, or the lack of one, may be "
        "the rate's"
    )
    remedy = "give each arm rates to choose from in training.learning_rates"
    return [JobWarning(code="shared_learning_rate", message=message, remedy=remedy)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _means(values: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each name that the first of ``values`` has."""
    return {name: _mean([each.get(name) for each in values]) for name in values[0]}


def _arm(
    arm: ArmPlan,
    runs: Sequence[FinetuneRun],
    metrics: Mapping[str, Mapping[int, float]],
    difference: SeedMean | None,
    judged: tuple[float, Verdict] | None,
) -> ArmReport:
    results = [run.result for run in runs if run.result]
    sizes = _mean([run.checkpoint_bytes for run in runs])
    return ArmReport(
        name=arm.name,
        same_as=arm.same_as,
        trained_layers=results[0].trained_layers if results else None,
        metric=seed_mean(list(metrics[arm.name].values())),
        difference=difference,
        p_value=judged[0] if judged else None,
        verdict=judged[1] if judged else None,
        adapter=arm.adapter,
        trainable_parameters=results[0].trainable_parameters if results else None,
        total_parameters=results[0].total_parameters if results else None,
        seconds=_seconds(results),
        samples_per_second=_mean([result.samples_per_second for result in results]),
        peak_memory_bytes=max((result.peak_memory_bytes for result in results), default=None),
        checkpoint_bytes=round(sizes) if sizes is not None else None,
        runs=[run.report() for run in runs],
    )


def paired_differences(
    metrics: Mapping[str, Mapping[int, float]], reference: str
) -> dict[str, list[float]]:
    """The differences of each other arm to the reference, for the seeds that both have."""
    other = metrics[reference]
    paired = {
        name: [own[seed] - other[seed] for seed in own if seed in other]
        for name, own in metrics.items()
        if name != reference
    }
    return {name: values for name, values in paired.items() if values}


def verdicts(
    differences: Mapping[str, Sequence[float]], noise: float | None
) -> dict[str, tuple[float, Verdict]]:
    """The adjusted p value and the verdict of each arm, as ArmReport defines them.

    ``differences`` are those to the reference, one for each seed. An arm that cannot be judged, for
    want of a second seed and of ``noise``, is left out.
    """
    p_values = {name: _p_value(values, noise) for name, values in differences.items()}
    adjusted = holm({name: p for name, p in p_values.items() if p is not None})
    return {name: (p, _verdict(differences[name], noise, p)) for name, p in adjusted.items()}


def _p_value(values: Sequence[float], noise: float | None) -> float | None:
    """How often such differences come by chance; with one seed, by that of the rows alone."""
    if len(values) > 1 or noise is None:
        return t_p_value(values)
    # Two metrics of standard error ``noise`` differ by √2 times as much if their errors on the
    # shared rows are unrelated, and by less if both models find the same rows hard.
    return normal_p_value(values[0], math.sqrt(2) * noise)


def _verdict(values: Sequence[float], noise: float | None, p_value: float) -> Verdict:
    mean = fmean(values)
    if p_value > ERROR_RATE or abs(mean) <= (noise or 0.0):
        return "within noise"
    return "better" if mean > 0 else "worse"


def _seconds(results: Sequence[FinetuneResult]) -> dict[str, float]:
    phases = results[0].seconds if results else {}
    return {
        phase: round(fmean(result.seconds.get(phase, 0.0) for result in results), 3)
        for phase in phases
    }


def _warnings(
    results: Sequence[FinetuneResult],
    noise: float | None,
    metrics: Mapping[str, Mapping[int, float]],
) -> list[JobWarning]:
    """The warnings of the runs that are of no single arm, each once, and those of the table."""
    found: list[JobWarning] = []
    for warning in (each for result in results for each in result.warnings):
        if warning.code not in OF_LEARNING and warning not in found:
            found.append(warning)
    if max((len(seeds) for seeds in metrics.values()), default=0) == 1:
        message = "one seed tells nothing of the spread between runs"
        remedy = "give three seeds or more"
        found.append(JobWarning(code="one_seed", message=message, remedy=remedy))
    if noise is None:
        message = "how far the validation rows decide the metric is not known"
        remedy = "give more validation rows, with several of every label"
        found.append(JobWarning(code="noise_unknown", message=message, remedy=remedy))
    return found


def _of_arms(
    arms: Sequence[ArmPlan], runs: Mapping[str, Sequence[FinetuneRun]]
) -> Iterator[JobWarning]:
    """What the runs of each arm have learned too little by; runs that arms share are told once."""
    for place, arm in enumerate(arms):
        if arm.same_as is None:
            yield from _of_arm(arm, place, runs[arm.name])


def _of_arm(arm: ArmPlan, place: int, runs: Sequence[FinetuneRun]) -> Iterator[JobWarning]:
    """What runs of an arm have learned too little by: a warning for each code, of how many runs.

    The arms of a request have fields for their rates, in ``place``; those of single layers do not.
    """
    told = [each for run in runs if run.result for each in run.result.warnings]
    for code in OF_LEARNING:
        own = [each for each in told if each.code == code]
        if not own:
            continue
        remedy = own[0].remedy or ""
        if not arm.single:
            remedy = remedy.replace("training.learning_rate", f"arms.{place}.learning_rate")
        message = f"arm {arm.name}, {len(own)} of {len(runs)} runs: {own[0].message}"
        yield JobWarning(code=code, message=message, remedy=remedy)


def add_other_presets(table: ComparisonResult, runs: Sequence[FinetuneRun]) -> None:
    """Set ``also`` of each arm: means over its runs, each at its best evaluation.

    A run without a value for a metric is left out of its mean, as with the primary metric.
    """
    for arm in table.arms:
        name = arm.same_as or arm.name
        own = [run.result.best.also for run in runs if run.arm == name and run.result]
        arm.also = {
            preset: {name: _preset_mean(own, preset, name) for name in metrics}
            for preset, metrics in (own[0] if own else {}).items()
        }


def _preset_mean(
    own: Sequence[dict[str, dict[str, float | None]]], preset: str, name: str
) -> SeedMean | None:
    values = [also[preset][name] for also in own]
    return seed_mean([value for value in values if value is not None])
