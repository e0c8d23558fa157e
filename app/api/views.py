"""How rows of the database look in answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from app.api.http.problems import ProblemDetails
from app.errors import JOB_ERRORS
from app.jobs.attempts import Usage
from app.tables import Base, Checkpoint, Dataset
from surgery.schemas import JobWarning
from surgery.schemas.comparison import ComparisonResult
from surgery.schemas.dataset import DatasetReport, HubDataset
from surgery.schemas.estimate import Estimate
from surgery.schemas.finetune import FinetuneResult
from surgery.schemas.ranking import RankingResult
from surgery.schemas.search import SearchResult

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


class JobUsage(Usage):
    """What a job has used, and what is stored for it."""

    stored_bytes: int = Field(
        description="Size of its checkpoints, of the state that it would resume from, and of the "
        "logs of its attempts. What is stored for a comparison is stored for its children."
    )


class JobProblem(ProblemDetails):
    """The error of a job: a problem (RFC 9457), as if the job had been one long request."""

    title: str = Field(description="What kind of error it is, in words; the same for each `code`.")
    status: int = Field(description="The HTTP status that an answer with this error would have.")
    instance: str = Field(description="The path of the job.")
    code: str = Field(
        description="What kind of error it is, for programs: "
        f"{', '.join(f'`{code}`' for code in sorted(JOB_ERRORS))}."
    )
    retriable: bool = Field(False, description="Whether a retry of the job may succeed.")
    request_id: str | None = Field(
        None, description="The id of the request that submitted the job, as in the server's log."
    )
    log: list[str] | None = Field(
        None, description="The last lines that the job's process printed, if it died."
    )


class ResultShapes:
    """Documents the shapes of a stored result, which is answered without validating it again."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The result of a ranking, a fine-tune, a search or a comparison, or null."""
        kinds = (RankingResult, FinetuneResult, SearchResult, ComparisonResult)
        shapes = [handler(kind.__pydantic_core_schema__) for kind in kinds]
        return {"anyOf": [*shapes, {"type": "null"}]}


class JobView(BaseModel):
    """A job of any kind. `GET /v1/jobs/{id}` and, say, `GET /v1/rankings/{id}` answer the same."""

    id: str = Field(description="The job's id.")
    kind: str = Field(description="`ranking`, `finetune`, `search` or `comparison`.")
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
        description="The result of a job that succeeded; its shape depends on `kind`."
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


COLLECTION = {
    "ranking": "rankings",
    "finetune": "finetunes",
    "search": "searches",
    "comparison": "comparisons",
}


def _same_fields(view: type[BaseModel], row: Base) -> Json:
    """The fields of a view that its row has under the same names, as they are stored."""
    columns = row.__table__.columns.keys()
    return {name: getattr(row, name) for name in view.model_fields if name in columns}


class EventView(BaseModel):
    """Something that happened to a job."""

    seq: int = Field(description="Events are numbered in the order in which they happened.")
    type: str = Field(description="What happened, such as `status`, `checkpoint` or `ranking`.")
    data: Json = Field(description="Details, which depend on `type`.")
    at: datetime = Field(description="When it happened.")


class MetricView(BaseModel):
    """One number measured at one step."""

    name: str = Field(description="What was measured, such as `train_loss`.")
    step: int = Field(description="Optimizer steps done by then.")
    epoch: float = Field(description="Passes over the training rows done by then.")
    value: float | None = Field(description="The number; null where it was not finite.")
    at: datetime = Field(description="When it was recorded.")


class FileView(BaseModel):
    """One file of a checkpoint."""

    name: str = Field(description="The file's name.")
    bytes: int = Field(description="The file's size.")
    sha256: str = Field(description="SHA-256 of the file's content, in hexadecimal digits.")
    href: str = Field(description="The path to download it from.")


class CheckpointView(BaseModel):
    """A checkpoint and its files."""

    id: str = Field(description="The checkpoint's id.")
    job: str = Field(description="The fine-tune that wrote it.")
    step: int = Field(description="Optimizer steps done by then.")
    epoch: float = Field(description="Passes over the training rows done by then.")
    form: Literal["delta", "full", "adapter"] = Field(
        description="`delta`: only the tensors that were trained. `full`: a whole transformers "
        "folder. `adapter`: a LoRA adapter in PEFT's format."
    )
    is_best: bool = Field(description="Whether it has the job's best metric so far.")
    pinned: bool = Field(description="Whether it is kept regardless of `checkpoints.keep`.")
    metrics: dict[str, float | None] = Field(
        description="The metrics of the evaluation it belongs to."
    )
    bytes: int = Field(description="Size of all its files together.")
    files: list[FileView] = Field(description="Its files, as they are stored.")
    created_at: datetime = Field(description="When it was stored.")
    links: dict[str, str] = Field(description="Paths of the checkpoint, its archive and its job.")


def checkpoint_view(row: Checkpoint) -> CheckpointView:
    """A checkpoint as it is answered."""
    own = f"/v1/checkpoints/{row.id}"
    files = [
        FileView(name=name, **entry, href=f"{own}/files/{name}")
        for name, entry in row.files.items()
    ]
    return CheckpointView(
        **_same_fields(CheckpointView, row) | {"files": files},
        job=row.job_id,
        links={"self": own, "archive": f"{own}/archive", "job": f"/v1/jobs/{row.job_id}"},
    )


class DatasetView(DatasetReport):
    """A stored dataset: what was found in its files, and under which id it is stored."""

    id: str = Field(description="The dataset's id, which other requests take as `dataset`.")
    name: str | None = Field(description="The name that it was given.")
    bytes: int = Field(description="Size of its stored form.")
    reference: HubDataset | None = Field(
        None, description="For a dataset of the Hub: what was stored, with the commit it is from."
    )
    note: str | None = Field(
        None,
        description="Where a request was answered with a dataset stored earlier: what it kept.",
    )
    created_at: datetime = Field(description="When it was first stored.")


def dataset_view(row: Dataset, note: str | None = None) -> DatasetView:
    """A stored dataset as it is answered."""
    own = {name: getattr(row, name) for name in ("id", "name", "bytes", "created_at")}
    return DatasetView(**row.report | own, note=note)
