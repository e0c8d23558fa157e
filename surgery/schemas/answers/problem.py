"""An error as it is answered (RFC 9457), and the errors that a job can end with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class FaultDetails(BaseModel):
    """One fault of a request. Kinds of faults have further fields of their own."""

    model_config = ConfigDict(extra="allow")

    detail: str = Field(description="What is wrong and what to do about it.")
    pointer: str | None = Field(
        None, description="The field of the request that is to blame, as a JSON Pointer (RFC 6901)."
    )
    file: str | None = Field(None, description="The uploaded file that has the fault.")
    row: int | None = Field(
        None, description="The row of that file, counted from 1 without the header."
    )
    column: str | None = Field(None, description="The column of that file.")
    count: int | None = Field(
        None, description="How many rows have this fault, if several do; `row` is the first."
    )
    rows: list[int] | None = Field(None, description="The first of these rows, at most ten.")
    suggestion: Any = Field(
        None,
        description="A value for the field at `pointer` that may be what was meant.",
        examples=[{"text": "body", "label": "team"}],
    )


class ProblemDetails(BaseModel):
    """An error as it is answered (RFC 9457)."""

    type: str = Field("about:blank", description="Always `about:blank`; `code` tells errors apart.")
    title: str = Field(description="What the status means.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong and what to do about it.")
    instance: str = Field(description="The path that was requested.")
    code: str = Field(description="What kind of error it is, for programs.")
    retriable: bool = Field(False, description="Whether the same request may succeed later.")
    request_id: str | None = Field(None, description="The id of this request in the server's log.")
    errors: list[FaultDetails] = Field([], description="Each fault, at most the first 100.")


@dataclass(frozen=True)
class JobErrorFacts:
    """What an error that ends a job is as a problem (RFC 9457); its code is the key."""

    status: int
    title: str


JOB_ERRORS = {
    "model_not_found": JobErrorFacts(422, "Model not found"),
    "model_gated": JobErrorFacts(422, "Model gated"),
    "model_unsupported": JobErrorFacts(422, "Model unsupported"),
    "unsafe_weights": JobErrorFacts(422, "Unsafe weights"),
    "unsafe_files": JobErrorFacts(422, "Unsafe files"),
    "dataset_not_found": JobErrorFacts(422, "Dataset not found"),
    "dataset_invalid": JobErrorFacts(422, "Dataset invalid"),
    "rows_invalid": JobErrorFacts(422, "Rows invalid"),
    "selection_empty": JobErrorFacts(422, "Selection empty"),
    "selection_mismatch": JobErrorFacts(422, "Selection mismatch"),
    "checkpoint_mismatch": JobErrorFacts(422, "Checkpoint mismatch"),
    "checkpoint_damaged": JobErrorFacts(500, "Checkpoint damaged"),
    "method_undefined": JobErrorFacts(422, "Method undefined"),
    "training_invalid": JobErrorFacts(422, "Training options invalid"),
    "training_diverged": JobErrorFacts(422, "Training diverged"),
    "scores_not_finite": JobErrorFacts(422, "Scores not finite"),
    "export_failed": JobErrorFacts(422, "Export failed"),
    "export_refused": JobErrorFacts(422, "Export refused"),
    "out_of_memory": JobErrorFacts(422, "Out of memory"),
    "unstorable": JobErrorFacts(422, "Not storable"),
    "cancelled": JobErrorFacts(409, "Cancelled"),
    "internal": JobErrorFacts(500, "Internal error"),
    "upstream_unavailable": JobErrorFacts(503, "Hub unavailable"),
    "destination_unavailable": JobErrorFacts(503, "Destination unavailable"),
    "worker_lost": JobErrorFacts(503, "Worker lost"),
    "deadline_exceeded": JobErrorFacts(504, "Deadline exceeded"),
    "storage_failed": JobErrorFacts(507, "Storage failed"),
}
"""Every code that the error of a job can have: those of `surgery.errors`."""


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
