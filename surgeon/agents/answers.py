"""What tools answer: the service's own answers, cut to what an agent decides by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field

from surgeon.agents.failures import told
from surgeon.client.answers import parsed
from surgeon.client.jobs import RESULTS
from surgery.schemas import JobWarning
from surgery.schemas.answers.dataset import DatasetView
from surgery.schemas.answers.job import JobView, ProgressView
from surgery.schemas.decision import Decision
from surgery.schemas.jobs.comparison import ArmReport, ComparisonResult, SeedMean
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.prediction import PredictionResult
from surgery.schemas.jobs.ranking import RankingResult, RecommendedK, Stability
from surgery.schemas.jobs.search import Interval, SearchResult

Json = dict[str, Any]
MAX_LABELS = 20  # of a dataset in a list


class Models(BaseModel):
    """The models at hand."""

    models: list[str] = Field(description="The models of the service's mirrors.")
    hub: bool = Field(
        description="Whether any encoder of the Hugging Face Hub can be named, too, by its id."
    )


class Preset(BaseModel):
    """A task whose dataset needs no upload."""

    name: str = Field(description="What `dataset` takes.")
    title: str = Field(description="The task's full name.")
    problem: str = Field(description="What is predicted from a row.")
    metrics: list[str] = Field(description="Its metrics; the first one decides.")
    evaluation_only: bool = Field(description="Whether it cannot be trained on.")


class StoredDataset(BaseModel):
    """A dataset that was uploaded or stored from the Hub."""

    id: str = Field(description="What `dataset` takes.")
    name: str | None = Field(description="Its name.")
    problem: str = Field(description="What is predicted from a row.")
    rows: dict[str, int] = Field(description="Rows by split.")
    labels: list[str] = Field(description=f"Its labels, the first {MAX_LABELS}.")
    label_count: int = Field(description="How many labels it has.")
    warnings: list[str] = Field(description="What was noticed in its rows.")
    created_at: datetime = Field(description="When it was first stored.")

    @classmethod
    def of(cls, stored: Json) -> StoredDataset:
        """The line of a stored dataset."""
        view = parsed(DatasetView, stored)
        return cls(
            id=view.id,
            name=view.name,
            problem=view.problem,
            rows=view.rows,
            labels=view.labels[:MAX_LABELS],
            label_count=len(view.labels),
            warnings=view.warnings,
            created_at=view.created_at,
        )


class Datasets(BaseModel):
    """The datasets that requests can name."""

    stored: list[StoredDataset] = Field(description="Stored datasets, newest first.")
    presets: list[Preset] = Field(description="The presets: tasks of GLUE and SuperGLUE.")


class RankedLayer(BaseModel):
    """One layer of a ranking."""

    rank: int = Field(description="The place in the ranking, from 1.")
    name: str = Field(description="The name in the model, as a selection takes it.")
    score: float = Field(description="The score; higher is better.")
    share: float = Field(description="The share of the sum of all scores.")
    interval: tuple[float, float] | None = Field(
        description="95 % interval of the score; null where it has none."
    )


class RankingSummary(BaseModel):
    """What a ranking found, and how far it can be trusted."""

    method: str = Field(description="The scoring method.")
    samples: int = Field(description="Rows that were scored.")
    layers: list[RankedLayer] = Field(description="The layers, best first.")
    recommended_k: RecommendedK = Field(description="How many layers to train, and why.")
    stability: Stability = Field(description="How far the order depends on the rows drawn.")
    shuffled_labels_tau: float | None = Field(
        description="Rank correlation with the order on shuffled labels. Near 1, the order is the "
        "model's own and says little about the task. Null if it was not measured."
    )
    warnings: list[JobWarning] = Field(description="What a reader should know.")

    @classmethod
    def of(cls, result: RankingResult) -> RankingSummary:
        """The summary of a result."""
        layers = [
            RankedLayer(
                rank=layer.rank,
                name=layer.name,
                score=layer.score,
                share=layer.share,
                interval=layer.ci,
            )
            for layer in result.layers
        ]
        prior = result.model_prior
        return cls(
            method=result.method,
            samples=result.samples,
            layers=layers,
            recommended_k=result.recommended_k,
            stability=result.stability,
            shuffled_labels_tau=prior.kendall_tau if prior else None,
            warnings=result.warnings,
        )


class FinetuneSummary(BaseModel):
    """What a fine-tune trained and reached."""

    trained_layers: list[str] = Field(description="The layers that trained, beside the head.")
    adapter: str | None = Field(description="The adapter that trained in place of layers.")
    learning_rate: float | None = Field(description="The learning rate.")
    trainable_parameters: int = Field(description="Parameters that trained, with the head.")
    total_parameters: int = Field(description="Parameters of the model with its head.")
    primary_metric: str = Field(description="The metric that decides.")
    metrics: dict[str, float | None] = Field(description="The metrics at the best evaluation.")
    baseline: dict[str, float | None] = Field(
        description="The same metrics of one answer for every row: what must be beaten."
    )
    noise: float | None = Field(
        description="Standard error of the metric due to the choice of validation rows."
    )
    best_checkpoint: str | None = Field(description="The checkpoint that `predict` takes.")
    frozen_verified: bool = Field(description="Whether every frozen tensor stayed the same.")
    seconds: float | None = Field(description="Seconds of the whole run.")
    warnings: list[JobWarning] = Field(description="What a reader should know.")

    @classmethod
    def of(cls, result: FinetuneResult) -> FinetuneSummary:
        """The summary of a result."""
        return cls(
            trained_layers=result.trained_layers,
            adapter=result.adapter.type if result.adapter else None,
            learning_rate=result.learning_rate,
            trainable_parameters=result.trainable_parameters,
            total_parameters=result.total_parameters,
            primary_metric=result.primary_metric,
            metrics=result.best.metrics,
            baseline=result.baseline,
            noise=result.best.noise,
            best_checkpoint=result.best_checkpoint,
            frozen_verified=result.frozen_verified,
            seconds=result.seconds.get("total"),
            warnings=result.warnings,
        )


class SearchSummary(BaseModel):
    """What a search found."""

    layers: list[str] = Field(description="The chosen layers, bottom to top.")
    learning_rate: float = Field(description="The learning rate to train them at.")
    certain: bool = Field(
        description="Whether the choice is better than every other candidate beyond chance. If "
        "not, others may be as good."
    )
    primary_metric: str = Field(description="The metric that candidates were judged by.")
    gain_over_all: Interval | None = Field(description="Over training all layers.")
    gain_over_fisher: Interval | None = Field(description="Over the Fisher score's two layers.")
    warnings: list[JobWarning] = Field(description="What a reader should know.")

    @classmethod
    def of(cls, result: SearchResult) -> SearchSummary:
        """The summary of a result."""
        return cls(
            layers=result.layers,
            learning_rate=result.learning_rate,
            certain=result.winner is not None,
            primary_metric=result.primary_metric,
            gain_over_all=result.gain_over_all,
            gain_over_fisher=result.gain_over_fisher,
            warnings=result.warnings,
        )


class ComparisonSummary(BaseModel):
    """What a comparison decided; `comparison_table` has its arms."""

    decision: str = Field(description="The decision in words.")
    checkpoint: str | None = Field(description="The checkpoint to take, if one is worth taking.")
    warnings: list[JobWarning] = Field(description="What a reader should know.")

    @classmethod
    def of(cls, result: ComparisonResult) -> ComparisonSummary:
        """The summary of a result."""
        decision = result.decision
        return cls(
            decision=decision.summary if decision else "It was not decided.",
            checkpoint=decision.checkpoint if decision else None,
            warnings=result.warnings,
        )


class ArmLine(BaseModel):
    """One way to train in a comparison."""

    name: str = Field(description="The arm's name.")
    metric: SeedMean | None = Field(description="The metric; null if no run has one.")
    difference: SeedMean | None = Field(description="To the reference, paired by seed.")
    p_value: float | None = Field(description="How likely such a difference is by chance.")
    verdict: str | None = Field(description="`better`, `worse` or `within noise`.")
    trained_layers: list[str] | None = Field(description="The layers that trained.")
    trainable_parameters: int | None = Field(description="Parameters that trained.")
    seconds: float | None = Field(description="Seconds of a run, on average.")
    same_as: str | None = Field(description="The arm that trains the same, whose runs these are.")
    failed_runs: int = Field(description="Runs without a metric.")

    @classmethod
    def of(cls, arm: ArmReport) -> ArmLine:
        """The line of an arm."""
        return cls(
            name=arm.name,
            metric=arm.metric,
            difference=arm.difference,
            p_value=arm.p_value,
            verdict=arm.verdict,
            trained_layers=arm.trained_layers,
            trainable_parameters=arm.trainable_parameters,
            seconds=arm.seconds.get("total"),
            same_as=arm.same_as,
            failed_runs=sum(run.metric is None for run in arm.runs),
        )


class ComparisonTable(BaseModel):
    """The arms of a comparison side by side, and which one to take."""

    primary_metric: str = Field(description="The metric by which the arms are compared.")
    baseline: dict[str, float | None] = Field(description="What one answer for every row reaches.")
    reference: str = Field(description="The arm that the others are compared with.")
    noise: float | None = Field(
        description="Standard error of the metric due to the choice of validation rows."
    )
    arms: list[ArmLine] = Field(description="The arms in the order of the request.")
    decision: Decision | None = Field(description="Which arm to take, and what is not told apart.")
    warnings: list[JobWarning] = Field(description="What a reader should know.")

    @classmethod
    def of(cls, result: ComparisonResult) -> ComparisonTable:
        """The table of a result."""
        return cls(
            primary_metric=result.primary_metric,
            baseline=result.baseline,
            reference=result.reference,
            noise=result.noise,
            arms=[ArmLine.of(arm) for arm in result.arms],
            decision=result.decision,
            warnings=result.warnings,
        )


Summary = RankingSummary | FinetuneSummary | SearchSummary | ComparisonSummary | PredictionResult
_SUMMARIES: Mapping[str, Callable[[Any], Summary]] = {
    "ranking": RankingSummary.of,
    "finetune": FinetuneSummary.of,
    "search": SearchSummary.of,
    "comparison": ComparisonSummary.of,
    "prediction": lambda result: result,
}


class ToolCall(BaseModel):
    """A call that settles what a job leaves open."""

    why: str = Field(description="What it would tell or do.")
    tool: str = Field(description="The tool to call.")
    arguments: Json = Field(description="Its arguments.")


class JobLine(BaseModel):
    """A job in a line: what it is, and how far."""

    id: str = Field(description="The job's id, which other tools take as `job`.")
    kind: str = Field(description="`ranking`, `finetune`, `search`, `prediction`, `comparison`.")
    name: str | None = Field(description="Its name.")
    model: str | None = Field(description="The model that it works on.")
    dataset: str | None = Field(description="The dataset that it works on.")
    status: str = Field(
        description="`queued`, `running`, `paused`, `succeeded`, `failed` or `cancelled`."
    )
    finished: bool = Field(description="Whether it has ended, however it did.")
    phase: str | None = Field(description="What a running job is doing.")
    progress: ProgressView | None = Field(description="How far it is; null before it starts.")
    queued_ahead: int | None = Field(description="Jobs before it in the queue, while it waits.")
    error: str | None = Field(description="Why it failed, and what to do.")
    warnings: list[JobWarning] = Field(description="What was noticed when it was submitted.")
    next: str = Field(description="What to do now.")

    @classmethod
    def of(cls, document: Json) -> Self:
        """The line of a job from the service's JSON."""
        return cls(**cls.fields_of(parsed(JobView, document)))

    @classmethod
    def fields_of(cls, job: JobView) -> Json:
        """The values of these fields."""
        model, dataset = (job.resolved.get(part) for part in ("model", "dataset"))
        return {
            "id": job.id,
            "kind": job.kind,
            "name": job.name,
            "status": job.status,
            "model": model and model["id"],
            "dataset": dataset and dataset["id"],
            "finished": job.terminal,
            "phase": job.phase,
            "progress": job.progress,
            "queued_ahead": job.queue.ahead if job.queue else None,
            "error": f"{job.error.detail} ({job.error.code})" if job.error else None,
            "warnings": job.warnings,
            "next": _advice(job),
        }


class JobStatus(JobLine):
    """A job in short: how far it is and, when it has finished, what came of it."""

    result: Summary | None = Field(description="What came of it, once it has succeeded.")
    next_calls: list[ToolCall] = Field(
        description="Calls that settle what it leaves open, best first, once it has ended."
    )

    @classmethod
    def fields_of(cls, job: JobView) -> Json:
        """The values of these fields."""
        result = None
        if job.result is not None:
            result = _SUMMARIES[job.kind](parsed(RESULTS[job.kind], job.result))
        return {**super().fields_of(job), "result": result, "next_calls": list(_calls(job))}


class Jobs(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobLine] = Field(description="The jobs; `job_status` has the result of one.")


_SUBMITTING = {
    "/v1/rankings": ("rank_layers", {"model", "dataset"}),
    "/v1/finetunes": ("fine_tune", {"model", "dataset", "selection", "training"}),
    "/v1/searches": ("search_layers", {"model", "dataset", "training"}),
    "/v1/comparisons": ("compare", {"model", "dataset", "arms", "seeds", "training"}),
}
"""The tool that sends a request to a path, and which of its fields are arguments of the tool."""


def _calls(job: JobView) -> Iterator[ToolCall]:
    """The next steps of a job as calls of tools; what no tool does is left out."""
    for step in job.next_steps:
        if step.path not in _SUBMITTING:
            continue
        tool, named = _SUBMITTING[step.path]
        body = step.body or {}
        arguments = {name: value for name, value in body.items() if name in named}
        options = {name: value for name, value in body.items() if name not in named}
        more = {"options": options} if options else {}
        yield ToolCall(why=told(step.why), tool=tool, arguments={**arguments, **more})


_AFTER = {
    "ranking": "The order is a hypothesis: see stability, shuffled_labels_tau and warnings before "
    "relying on it. selected_layers tells which layers a policy chooses.",
    "finetune": "Compare metrics with baseline and noise. predict takes best_checkpoint.",
    "search": "selected_layers writes the choice for other tools.",
    "comparison": "comparison_table has the arms and the decision.",
    "prediction": "The predictions are in the order of the rows.",
}


def _advice(job: JobView) -> str:
    """What to do with a job in this status."""
    if job.status == "succeeded":
        return _AFTER[job.kind]
    if job.terminal:
        return "It has no result. Mend what error names, then submit it again."
    if job.status == "paused":
        return "It waits until somebody resumes it (`surgeon resume` in a shell)."
    return "Call wait_for_job, again until finished is true; other work can be done meanwhile."
