"""A job of any kind, and what a dry run of its submission tells."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from surgery.schemas import JobWarning
from surgery.schemas.answers.problem import JobProblem
from surgery.schemas.answers.usage import JobUsage
from surgery.schemas.jobs.comparison import ComparisonResult
from surgery.schemas.jobs.estimate import Estimate
from surgery.schemas.jobs.export import ExportResult
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.prediction import PredictionResult
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult

Json = dict[str, Any]


class Transition(BaseModel):
    """A change of a job's status."""

    status: str = Field(description="The status that the job changed to.")
    at: datetime = Field(description="When it changed.")
    reason: str | None = Field(
        None, description="Why it changed, such as an error's code; null where it needs no reason."
    )


class ProgressView(BaseModel):
    """How far a job is. Numbers that are not known are null."""

    percent: float | None = Field(
        None,
        description="Share of the whole job that is done, in percent. It is known as long as the "
        "job runs and never falls: a second attempt that starts over stays where the first came.",
    )
    step: int | None = Field(None, description="Units of the current phase that are done.")
    total_steps: int | None = Field(None, description="Units that the phase has.")
    unit: str | None = Field(
        None,
        description="What is counted, such as `samples` or `steps`. `phases`: the phase counts "
        "nothing itself, and the numbers say which of the job's phases it is.",
    )
    eta_seconds: float | None = Field(
        None,
        description="Estimated seconds until the whole job is over, which become precise as the "
        "job goes on; null before it has done anything, and while it is queued.",
    )


class QueueView(BaseModel):
    """Where a queued job stands in the queue."""

    ahead: int = Field(description="Queued jobs that will be started before this one.")


class NextStep(BaseModel):
    """A request that uses what a job made or settles what it leaves open, ready to be sent."""

    why: str = Field(description="What it would tell or do, in words.")
    method: Literal["GET", "POST"] = Field(description="The method of the request.")
    path: str = Field(description="The path of the request, with its query.")
    body: Json | None = Field(
        description="The body of the request, with this job's model, dataset and ids; null if it "
        "has none, and for the upload of rows that only the caller has."
    )


class ResultShapes:
    """Documents the shapes of a stored result, which is answered without validating it again."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The result of a job of any kind, or null."""
        kinds = (
            *(RankingResult, FinetuneResult, SearchResult, PredictionResult, ExportResult),
            ComparisonResult,
        )
        shapes = [handler(kind.__pydantic_core_schema__) for kind in kinds]
        return {"anyOf": [*shapes, {"type": "null"}]}


class JobView(BaseModel):
    """A job of any kind. `GET /v1/jobs/{id}` and, say, `GET /v1/rankings/{id}` answer the same."""

    id: str = Field(description="The job's id.")
    kind: str = Field(
        description="`ranking`, `finetune`, `search`, `prediction`, `export` or `comparison`."
    )
    name: str | None = Field(description="The name that the request gave the job.")
    metadata: dict[str, str] = Field(description="The labels that the request gave the job.")
    priority: int = Field(description="Queued jobs of a higher priority are started first.")
    status: str = Field(
        description="`queued`, `running`, `paused`, `succeeded`, `failed` or `cancelled`."
    )
    phase: str | None = Field(description="What a running job is doing, such as `load` or `train`.")
    terminal: bool = Field(description="Whether the job has ended, so that polling can stop.")
    progress: ProgressView | None = Field(
        description="How far the job is; null before its first attempt."
    )
    queue: QueueView | None = Field(description="Where a queued job stands; null for any other.")
    attempt: int = Field(
        description="The number of the current attempt. It grows when a worker is lost."
    )
    max_attempts: int = Field(description="Attempts after which the job fails for good.")
    cancel_requested: bool = Field(description="Whether somebody has asked the job to end.")
    pause_requested: bool = Field(
        description="Whether a running job was asked to pause, and has not stopped yet."
    )
    error: JobProblem | None = Field(
        description="Why the job failed, who or what cancelled it, or what its last attempt died "
        "of, as a problem (RFC 9457)."
    )
    spec: Json = Field(description="The request, with every default filled in.")
    resolved: Json = Field(
        description="What the request resolved to: the model's and the dataset's revisions and "
        "fingerprints and, for a fine-tune, the layers that train."
    )
    result: Annotated[Json | None, ResultShapes] = Field(
        description="The result of a job that succeeded; its shape depends on `kind`. Lists "
        "leave those of predictions out."
    )
    cached: bool = Field(
        False, description="Whether an equal job computed the result (`result_of`)."
    )
    result_of: str | None = Field(
        None,
        description="The job that computed this result, if another one did: an equal ranking or, "
        "in a comparison, the run of an arm that trains the same.",
    )
    waits_for: str | None = Field(
        None,
        description="The ranking, the search or the equal run that a queued job waits for, to use "
        "its result.",
    )
    parent: str | None = Field(None, description="The job that created this one, if one did.")
    retry_of: str | None = Field(
        None, description="The failed or cancelled job that this one repeats, if it is a retry."
    )
    deadline_seconds: int | None = Field(
        None, description="The job ends if it is not over this long after `created_at`."
    )
    created_at: datetime = Field(description="When the job was submitted.")
    queued_at: datetime = Field(
        description="When the job entered the queue. It keeps its place when it is queued again."
    )
    started_at: datetime | None = Field(description="When the latest attempt began.")
    finished_at: datetime | None = Field(description="When the job ended.")
    updated_at: datetime = Field(description="When anything about the job last changed.")
    heartbeat_at: datetime | None = Field(
        description="When the worker last said that it is working on the job."
    )
    usage: JobUsage = Field(
        description="What all attempts have used, also those that were lost, drained or paused; of "
        "a comparison, what its ended children have."
    )
    warnings: list[JobWarning] = Field(
        description="What was noticed when the job was submitted and did not keep it from being "
        "queued. Empty once a worker has started it, of a comparison once that has ended."
    )
    next_steps: list[NextStep] = Field(
        [],
        description="What to do when the job has ended, best first: what uses it, as the download "
        "of a checkpoint, and what would settle what it leaves open, as a comparison "
        "with more seeds; after a failure the retry.",
    )
    transitions: list[Transition] = Field(description="Every change of status, oldest first.")
    links: dict[str, str] = Field(description="Paths of this job and of what belongs to it.")


class DryRun(BaseModel):
    """What a submission would create, answered to `validate_only=true`."""

    valid: Literal[True] = Field(
        True, description="The request passed every check; a refused one is answered as usual."
    )
    cached: bool = Field(description="Whether a stored result would answer it at once.")
    waits_for: str | None = Field(
        None, description="The ranking in flight that the job would wait for, if there is one."
    )
    resolved: Json = Field(description="What the request resolves to, as in the job.")
    spec: Json = Field(description="The request, with every default filled in.")
    warnings: list[JobWarning] = Field(description="What the job would be accepted with.")
    estimate: Estimate | None = Field(
        None, description="For a search, and a fine-tune with one process: what it would take."
    )
