"""What OpenAI's API calls files, fine-tuning jobs, their events and their checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, StringConstraints, create_model, field_validator

from surgery.schemas import Strict
from surgery.schemas.fields import ModelId
from surgery.schemas.jobs.finetune import FinetuneSpec, SelectionOrAdapter
from surgery.schemas.jobs.ranking import Metadata

Json = dict[str, Any]
Item = TypeVar("Item")
OF_THE_JOB = {"model", "dataset", "name", "metadata"}
"""Fields of a fine-tune's request that a fine-tuning job has beside its method."""

_OF_THE_METHOD: dict[str, Any] = {
    name: (field.annotation, field)
    for name, field in FinetuneSpec.model_fields.items()
    if name not in OF_THE_JOB
}
SurgicalMethod = create_model(
    "SurgicalMethod",
    __base__=SelectionOrAdapter,
    __doc__="Which layers train, and how: the fields of `POST /v1/finetunes`.",
    **_OF_THE_METHOD,
)


class FineTuningMethod(Strict):
    """How a job trains."""

    type: Literal["surgical"] = Field(description="`surgical`: chosen layers, and the head.")
    surgical: SurgicalMethod = Field(
        description="Which layers train, and how, as in `POST /v1/finetunes`."
    )


class FineTuningRequest(Strict):
    """Fine-tune a model on an uploaded file."""

    model: ModelId
    training_file: Annotated[str, StringConstraints(min_length=1, max_length=120)] = Field(
        description="The id of an uploaded file or, as everywhere in this service, the name of a "
        "preset."
    )
    validation_file: str | None = Field(
        None,
        description="Leave it out: a tenth of the file is set aside for validation. `POST "
        "/v1/datasets` takes both files at once, and its id is a `training_file`.",
    )
    method: FineTuningMethod
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="As `training.seed` of the method, in its place."
    )
    suffix: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="A name for the job, for lists."
    )
    metadata: Metadata | None = None

    @field_validator("validation_file")
    @classmethod
    def _one_file(cls, given: str | None) -> None:
        if given is not None:
            raise ValueError(
                "the validation rows cannot be a file of their own here; leave this out, and a "
                "tenth of the training file is set aside, or store both with POST /v1/datasets"
            )


class Listed(BaseModel, Generic[Item]):
    """A page of a list, newest first."""

    object: Literal["list"] = "list"
    data: list[Item] = Field(description="The entries of this page.")
    has_more: bool = Field(description="Whether there are more, `after` the last entry's id.")


class FileObject(BaseModel):
    """An uploaded file: a stored dataset."""

    id: str = Field(description="The dataset's id.")
    object: Literal["file"] = "file"
    bytes: int = Field(description="Size of its stored form.")
    created_at: int = Field(description="When it was first stored, in seconds since 1970.")
    filename: str = Field(description="Its name.")
    purpose: Literal["fine-tune"] = "fine-tune"
    status: Literal["processed"] = "processed"
    status_details: str | None = Field(description="What was noticed in its rows.")


class DeletedFile(BaseModel):
    """A file that was deleted."""

    id: str = Field(description="The dataset's id.")
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class JobFailure(BaseModel):
    """Why a job failed."""

    code: str = Field(description="What kind of error it is.")
    message: str = Field(description="What is wrong and what to do about it.")
    param: str | None = Field(None, description="Always null.")


class Hyperparameters(BaseModel):
    """The fields that other methods have; the method's own `training` has all of them."""

    n_epochs: int | None = Field(description="Passes over the training rows.")
    batch_size: int | None = Field(description="Rows in one forward and backward pass.")


class FineTuningJob(BaseModel):
    """A fine-tune."""

    id: str = Field(description="The fine-tune's id, also under `/v1/finetunes`.")
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int = Field(description="When it was submitted, in seconds since 1970.")
    finished_at: int | None = Field(description="When it ended.")
    estimated_finish: int | None = Field(description="When it will end, by its progress.")
    status: str = Field(
        description="`queued`, `running`, `paused`, `succeeded`, `failed` or `cancelled`."
    )
    error: JobFailure | None = Field(description="Why it failed.")
    model: str = Field(description="The model that it trains.")
    fine_tuned_model: str | None = Field(
        description="The id of its best checkpoint; null until it has succeeded."
    )
    organization_id: str = Field(description="The project.")
    training_file: str = Field(description="The dataset.")
    validation_file: None = Field(None, description="Always null.")
    result_files: list[str] = Field([], description="Always empty; see its checkpoints.")
    trained_tokens: None = Field(None, description="Always null: tokens are not counted.")
    seed: int | None = Field(description="The seed of the run.")
    suffix: str | None = Field(description="The job's name.")
    metadata: dict[str, str] = Field(description="Your own labels.")
    hyperparameters: Hyperparameters = Field(description="As other methods have them.")
    method: Json = Field(description="The method, with every default filled in.")


class FineTuningEvent(BaseModel):
    """Something that happened to a job."""

    id: str = Field(description="The event's id.")
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int = Field(description="When it happened, in seconds since 1970.")
    level: Literal["info", "warn", "error"] = Field(description="How grave it is.")
    message: str = Field(description="What happened.")
    type: Literal["message"] = "message"
    data: Json = Field(description="The event as `GET /v1/jobs/{id}/events` has it.")


class FineTuningCheckpoint(BaseModel):
    """A checkpoint of a job."""

    id: str = Field(description="The checkpoint's id, also under `/v1/checkpoints`.")
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int = Field(description="When it was stored, in seconds since 1970.")
    fine_tuned_model_checkpoint: str = Field(description="The same id.")
    fine_tuning_job_id: str = Field(description="The job's id.")
    step_number: int = Field(description="Optimizer steps done by then.")
    metrics: dict[str, float | None] = Field(
        description="The step, and the metrics of the evaluation that it belongs to."
    )
