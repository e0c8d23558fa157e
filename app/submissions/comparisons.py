"""Turns a comparison into its children: fine-tunes, and what some of them wait for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.db.tables import Job, JobKind
from app.errors import ServiceError, Unprocessable
from app.jobs.comparisons.shared_runs import Choice, arm_digest, settled_arms
from app.jobs.outputs.records import stored_ranking
from app.service import Service
from app.submissions.checks import check_method, ranking_digest, search_digest
from app.submissions.fleet import Fleet
from app.submissions.resolve import Subject, resolve_subject
from app.submissions.submit import (
    Prepared,
    check_training_field,
    finetune_job,
    new_job,
    ranking_job,
    search_job,
    training_digest,
)
from surgery.errors import SurgeryError
from surgery.ranking.selection import ranking_options, search_options
from surgery.schemas.enums import POLICIES, Granularity, Method, Policy
from surgery.schemas.jobs.comparison import MAX_RUNS, ArmPlan, ArmSpec, ComparisonSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import RankingOptions, RankingSpec
from surgery.schemas.jobs.search import SearchOptions, SearchSpec
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.training import TrainingSpec
from surgery.schemas.resolved import (
    LayerInfo,
    ResolvedComparison,
    ResolvedFinetune,
    ResolvedSelection,
)
from surgery.schemas.validation import faults_of

Json = dict[str, Any]
DEFAULT_RATE = TrainingSpec().learning_rate
# Fields that each arm has.
OF_ARM = ("/selection", "/adapter", "/learning_rate", "/layer_schedule", "/name")


@dataclass(frozen=True)
class JobBuilder:
    """Builds the jobs of one comparison, without inserting them."""

    service: Service
    spec: ComparisonSpec
    subject: Subject
    fleet: Fleet

    def ranking(self, options: RankingOptions, new: dict[str, Job]) -> Job:
        """The stored ranking with these options, or else a new job, added to ``new`` by digest."""
        model, dataset = self.subject.model, self.subject.dataset
        digest = ranking_digest(model.fingerprint, dataset.fingerprint, options)
        known = stored_ranking(self.service.database, self.service.project, digest) or new.get(
            digest
        )
        if known is None:
            known = new[digest] = self._new_ranking(options, digest)
        return known

    def _new_ranking(self, options: RankingOptions, digest: str) -> Job:
        given = options.model_dump(mode="json", include=set(RankingOptions.model_fields))
        spec = RankingSpec.model_validate({**self._shared(), **given})
        spec.name = f"ranking by {options.method}"
        return ranking_job(self.service, spec, self.subject, digest, self.fleet)

    def _shared(self) -> Json:
        """The fields of the comparison's request that all its children have."""
        return self.spec.model_dump(
            mode="json",
            include={"model", "dataset", "metadata", "priority", "deadline_seconds"},
        )

    def search(self, options: SearchOptions, new: dict[str, Job]) -> Job:
        """The job of a search with these options, added to ``new`` by its digest.

        All seeds of an arm, and all arms that ask for the same search, share it.
        """
        changed = {"learning_rate": DEFAULT_RATE, "learning_rates": None}  # those of other arms
        training = self.spec.training.model_copy(update=changed)
        given = options.model_dump(mode="json")
        spec = SearchSpec.model_validate(
            {**self._shared(), **given, "training": training.model_dump(mode="json")}
        )
        spec.name = "search"
        model, dataset = self.subject.model, self.subject.dataset
        digest = search_digest(model.fingerprint, dataset.fingerprint, spec)
        if digest not in new:
            new[digest] = search_job(self.service, spec, self.subject, self.fleet)
        return new[digest]

    def awaited(self, selection: SelectionSpec, new: dict[str, Job]) -> Job:
        """The ranking or the search that has to choose the layers of a selection first."""
        if POLICIES[selection.policy].searches:
            return self.search(search_options(selection), new)
        return self.ranking(ranking_options(selection), new)

    def finetunes(self, arm: ArmSpec) -> list[Job]:
        """The fine-tunes of an arm, one for each seed."""
        return [
            finetune_job(
                self.service, self._finetune(arm, seed), self.subject, self.fleet, arm.name
            )
            for seed in self.spec.seeds
        ]

    def _finetune(self, arm: ArmSpec, seed: int) -> FinetuneSpec:
        spec, changed = self.spec, {"seed": seed, **arm.changed()}
        if POLICIES[arm.selection.policy].searches:
            # The search replaces the rate.
            changed |= {"learning_rate": DEFAULT_RATE, "learning_rates": None}
        return FinetuneSpec(
            model=spec.model,
            dataset=spec.dataset,
            name=f"{arm.name}, seed {seed}",
            metadata=spec.metadata,
            priority=spec.priority,
            deadline_seconds=spec.deadline_seconds,
            selection=arm.selection,
            adapter=arm.adapter,
            training=spec.training.model_copy(update=changed),
            checkpoints=spec.checkpoints,
            also_evaluate=spec.also_evaluate,
        )


def prepare_comparison(service: Service, spec: ComparisonSpec) -> Prepared:
    """Check a comparison, and build its job and all its children."""
    subject = resolve_subject(service, spec.model, spec.dataset, spec.also_evaluate)
    check_training_field(spec.training, subject, processes=1)
    builder = JobBuilder(service, spec, subject, Fleet.of(service))
    arms = _all_arms(spec, subject.info.layers)
    by_arm = _check(builder, arms)
    plans = _plans(builder, arms, by_arm)
    by_arm = {plan.name: by_arm[plan.name] for plan in plans if plan.same_as is None}
    choosers, judged = _choosers(builder, arms, by_arm)
    resolved = ResolvedComparison(
        model=subject.model,
        dataset=subject.dataset,
        digest=training_digest(spec, subject),
        also_evaluate=subject.also_evaluate,
        arms=plans,
        ranking=judged,
        runs=sum(len(jobs) for jobs in by_arm.values()),
    )
    job = new_job(service, JobKind.COMPARISON, "cmp", spec, resolved)
    children = [*choosers, *_in_order(by_arm.values(), subject.info.layers)]
    for child in children:
        child.parent = job.id
        job.warnings += [notice for notice in child.warnings if notice not in job.warnings]
    return Prepared(job, subject, children=children)


def _all_arms(spec: ComparisonSpec, layers: Sequence[LayerInfo]) -> list[ArmSpec]:
    """The arms of the request, then one for each layer if ``single_layers`` asks for them."""
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
        raise Unprocessable("single_layers does not fit the other fields", errors=faults)
    return [*spec.arms, *singles]


def _check(builder: JobBuilder, arms: Sequence[ArmSpec]) -> dict[str, list[Job]]:
    """The fine-tunes of every arm by its name. Raises Unprocessable with all arms' faults."""
    jobs: dict[str, list[Job]] = {}
    faults: list[Json] = []
    for place, arm in enumerate(arms):
        try:
            jobs[arm.name] = builder.finetunes(arm)
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
    """A fault of an arm's fine-tune, pointing at the comparison's field instead."""
    pointer = str(fault.get("pointer") or "")
    for field in arm.changed():
        if pointer.startswith(f"/training/{field}"):
            pointer = pointer.removeprefix("/training")
    if pointer.startswith(OF_ARM) or not pointer.strip("/"):
        pointer = f"/arms/{place}{pointer.rstrip('/')}"
    return {**fault, "pointer": pointer, "detail": f"arm {arm.name!r}: {fault['detail']}"}


def _choosers(
    builder: JobBuilder, arms: Sequence[ArmSpec], by_arm: dict[str, list[Job]]
) -> tuple[list[Job], str | None]:
    """New rankings and searches to run first, and the id of the ranking of single layers."""
    new: dict[str, Job] = {}
    for arm in arms:
        for job in by_arm.get(arm.name, []):
            if _layers(job) is None:
                job.waits_for = builder.awaited(arm.selection, new).id
    if not builder.spec.single_layers:
        return list(new.values()), None
    length = builder.spec.training.max_length
    every = RankingOptions(method=Method.ALL, max_length=length)
    check_method(every, builder.subject.dataset.problem)
    judged = builder.ranking(every, new).id
    return list(new.values()), judged


def _layers(job: Job) -> list[str] | None:
    """The names of what a child trains; None if a ranking or a search has to choose them first."""
    return ResolvedFinetune.of(job.resolved).layers


def _plans(
    builder: JobBuilder, arms: Sequence[ArmSpec], by_arm: dict[str, list[Job]]
) -> list[ArmPlan]:
    """The plans of all arms. An arm that trains the same as one before it has no runs of its own.

    Arms that wait for a ranking or a search are compared with the others when it has ended.
    """
    named = len(builder.spec.arms)
    plans = [_plan(arm, by_arm[arm.name], place >= named) for place, arm in enumerate(arms)]
    info = builder.subject.info
    for arm in arms:
        first = by_arm[arm.name][0]
        selection = ResolvedSelection.of(first.resolved)
        if selection.layers is not None:
            parts = info.at(selection.granularity or Granularity.LAYER)
            digest = arm_digest(FinetuneSpec.model_validate(first.spec), Choice(selection, parts))
            plans = settled_arms(plans, arm.name, selection.layers, digest)
    return plans


def _plan(arm: ArmSpec, jobs: Sequence[Job], single: bool) -> ArmPlan:
    training = jobs[0].spec["training"]
    several = training["learning_rates"]
    rate = None if several else training["learning_rate"]
    if POLICIES[arm.selection.policy].searches:
        rate = ResolvedFinetune.of(jobs[0].resolved).learning_rate
    return ArmPlan(
        name=arm.name,
        policy=arm.selection.policy,
        adapter=arm.adapter.type if arm.adapter else None,
        layers=_layers(jobs[0]),
        single=single,
        learning_rate=rate,
        learning_rates=several,
    )


def _in_order(arms: Iterable[Sequence[Job]], layers: Sequence[LayerInfo]) -> list[Job]:
    """The fine-tunes, longest frozen prefix first, so that equal prefixes follow each other.

    Those that wait for a ranking or a search come last.
    """
    return sorted((job for jobs in arms for job in jobs), key=lambda job: -_lowest(job, layers))


def _lowest(job: Job, layers: Sequence[LayerInfo]) -> int:
    """The index of the lowest layer that trains; the number of layers if only the head does.

    -1 if a ranking or a search has to choose the layers first.
    """
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
