"""From a comparison to its children: fine-tunes, and the rankings that some of them wait for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.errors import ServiceError, Unprocessable
from app.jobs.records import stored_ranking
from app.service import Service
from app.submissions.checks import check_method, ranking_digest
from app.submissions.resolve import Subject, resolve_subject
from app.submissions.submit import (
    Prepared,
    check_training_field,
    finetune_job,
    new_job,
    ranking_job,
    training_digest,
)
from app.tables import Job, Kind
from surgery.errors import SurgeryError
from surgery.ranking.selection import ranking_options
from surgery.schemas.comparison import MAX_RUNS, ArmPlan, ArmSpec, ComparisonSpec
from surgery.schemas.enums import POLICIES, Method, Policy
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.ranking import RankingOptions, RankingSpec
from surgery.schemas.resolved import LayerInfo, ResolvedComparison, ResolvedFinetune
from surgery.schemas.selection import SelectionSpec
from surgery.schemas.validation import faults_of

Json = dict[str, Any]
OF_ARM = ("/selection", "/adapter", "/learning_rate", "/name")


@dataclass(frozen=True)
class Family:
    """What is collected while the arms are checked."""

    service: Service
    spec: ComparisonSpec
    subject: Subject

    def ranking(self, options: RankingOptions, new: dict[str, Job]) -> Job:
        """The stored ranking of these options, else one new job for it."""
        model, dataset = self.subject.model, self.subject.dataset
        digest = ranking_digest(model.fingerprint, dataset.fingerprint, options)
        known = stored_ranking(self.service.database, digest) or new.get(digest)
        if known is None:
            known = new[digest] = self._new_ranking(options, digest)
        return known

    def _new_ranking(self, options: RankingOptions, digest: str) -> Job:
        carried = self.spec.model_dump(
            mode="json", include={"model", "dataset", "metadata", "priority"}
        )
        given = options.model_dump(mode="json", include=set(RankingOptions.model_fields))
        spec = RankingSpec.model_validate({**carried, **given})
        spec.name = f"ranking by {options.method}"
        return ranking_job(self.service, spec, self.subject, digest)

    def finetunes(self, arm: ArmSpec) -> list[Job]:
        """An arm's children, one a seed."""
        return [
            finetune_job(self.service, self._finetune(arm, seed), self.subject, arm.name)
            for seed in self.spec.seeds
        ]

    def _finetune(self, arm: ArmSpec, seed: int) -> FinetuneSpec:
        spec = self.spec
        changed: Json = {"seed": seed}
        if arm.learning_rate is not None:
            changed["learning_rate"] = arm.learning_rate
        return FinetuneSpec(
            model=spec.model, dataset=spec.dataset, name=f"{arm.name}, seed {seed}",
            metadata=spec.metadata, priority=spec.priority, selection=arm.selection,
            adapter=arm.adapter, training=spec.training.model_copy(update=changed),
            checkpoints=spec.checkpoints, also_evaluate=spec.also_evaluate,
        )  # fmt: skip


def prepare_comparison(service: Service, spec: ComparisonSpec) -> Prepared:
    """Check every arm, and lay out all that will run."""
    subject = resolve_subject(service, spec.model, spec.dataset, spec.also_evaluate)
    check_training_field(spec.training, subject.dataset, processes=1)
    family = Family(service, spec, subject)
    arms = _all_arms(spec, subject.info.layers)
    by_arm = _check(family, arms)
    rankings, judged = _rankings(family, arms, by_arm)
    plans = [
        _plan(arm, by_arm[arm.name], place >= len(spec.arms)) for place, arm in enumerate(arms)
    ]
    resolved = ResolvedComparison(
        model=subject.model,
        dataset=subject.dataset,
        digest=training_digest(spec, subject),
        also_evaluate=subject.also_evaluate,
        arms=plans,
        ranking=judged,
        runs=sum(len(jobs) for jobs in by_arm.values()),
    )
    job = new_job(service, Kind.COMPARISON, "cmp", spec, resolved)
    children = [*rankings, *_in_order(by_arm.values(), subject.info.layers)]
    for child in children:
        child.parent = job.id
    return Prepared(job, subject, children=children)


def _all_arms(spec: ComparisonSpec, layers: Sequence[LayerInfo]) -> list[ArmSpec]:
    """Those that were named, then one a layer where asked for."""
    if not spec.single_layers:
        return list(spec.arms)
    singles = [
        ArmSpec(
            name=f"layer-{layer.index}",
            selection=SelectionSpec(policy=Policy.LAYERS, layers=[layer.name]),
        )
        for layer in layers
    ]
    taken = {arm.name for arm in singles}
    faults = [
        {"pointer": f"/arms/{place}/name", "detail": "single_layers adds an arm of this name"}
        for place, arm in enumerate(spec.arms)
        if arm.name in taken
    ]
    runs = (len(spec.arms) + len(singles)) * len(spec.seeds)
    if runs > MAX_RUNS:
        detail = f"{runs} runs with those of single_layers, more than {MAX_RUNS}; name fewer seeds"
        faults.append({"pointer": "/seeds", "detail": detail})
    if faults:
        raise Unprocessable("single_layers does not go with the rest", errors=faults)
    return [*spec.arms, *singles]


def _check(family: Family, arms: Sequence[ArmSpec]) -> dict[str, list[Job]]:
    """The children of every arm. Raises Unprocessable with the faults of all arms."""
    jobs: dict[str, list[Job]] = {}
    faults: list[Json] = []
    for place, arm in enumerate(arms):
        try:
            jobs[arm.name] = family.finetunes(arm)
        except (SurgeryError, ServiceError, ValidationError) as error:
            faults += [_at_arm(fault, place, arm) for fault in _faults(error)]
    if faults:
        raise Unprocessable("an arm cannot be trained", errors=faults)
    return jobs


def _faults(error: SurgeryError | ServiceError | ValidationError) -> list[Json]:
    if isinstance(error, ValidationError):
        return faults_of(error)
    if isinstance(error, SurgeryError):
        found = [fault.as_dict() for fault in error.faults]
        return found or [{"detail": error.detail}]
    return error.errors or [{"detail": error.detail}]


def _at_arm(fault: Json, place: int, arm: ArmSpec) -> Json:
    """A fine-tune's fault, where the comparison has the field."""
    pointer = str(fault.get("pointer") or "")
    if pointer.startswith(OF_ARM) or not pointer.strip("/"):
        pointer = f"/arms/{place}{pointer.rstrip('/')}"
    return {**fault, "pointer": pointer, "detail": f"arm {arm.name!r}: {fault['detail']}"}


def _rankings(
    family: Family, arms: Sequence[ArmSpec], by_arm: dict[str, list[Job]]
) -> tuple[list[Job], str | None]:
    """The rankings to compute first, each once; and the one that judges the single layers."""
    new: dict[str, Job] = {}
    for arm in arms:
        for job in by_arm[arm.name]:
            if POLICIES[arm.selection.policy].needs_ranking and _layers(job) is None:
                job.waits_for = family.ranking(ranking_options(arm.selection), new).id
    if not family.spec.single_layers:
        return list(new.values()), None
    length = family.spec.training.max_length
    every = RankingOptions(method=Method.ALL, max_length=length)
    check_method(every, family.subject.dataset.problem)
    judged = family.ranking(every, new).id
    return list(new.values()), judged


def _layers(job: Job) -> list[str] | None:
    """What a child trains; None where a ranking has to choose it first."""
    return ResolvedFinetune.of(job.resolved).layers


def _plan(arm: ArmSpec, jobs: Sequence[Job], single: bool) -> ArmPlan:
    return ArmPlan(
        name=arm.name,
        policy=arm.selection.policy,
        adapter=arm.adapter.type if arm.adapter else None,
        layers=_layers(jobs[0]),
        single=single,
        learning_rate=jobs[0].spec["training"]["learning_rate"],
    )


def _in_order(arms: Iterable[Sequence[Job]], layers: Sequence[LayerInfo]) -> list[Job]:
    """Equal frozen prefixes one after another, the longest first; those that wait come last."""
    return sorted((job for jobs in arms for job in jobs), key=lambda job: -_lowest(job, layers))


def _lowest(job: Job, layers: Sequence[LayerInfo]) -> int:
    """The place of the lowest layer that trains; above all of them where only the head does."""
    names = _layers(job)
    if names is None:
        return -1
    if job.spec["adapter"] is not None or "embeddings" in job.spec["selection"]["include"]:
        return 0
    trained = [
        layer.index
        for layer in layers
        if any(name == layer.name or name.startswith(f"{layer.name}.") for name in names)
    ]
    return min(trained, default=len(layers))
