"""What submitting a ranking and a fine-tune have in common."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query
from fastapi.responses import JSONResponse

from app.deps import Service
from app.estimates import estimate, question_of
from app.submit import Prepared, submit
from app.views import job_views
from surgery.finetune_spec import FinetuneSpec
from surgery.spec import Submission

ValidateOnly = Annotated[
    bool, Query(description="Do every check, create nothing, answer what would be created.")
]
IdempotencyKey = Annotated[
    str | None,
    Header(max_length=255, description="The same key and body give the same job for a day."),
]
POLL_AFTER_SECONDS = 1


def answer_submission(
    service: Service, prepared: Prepared, spec: Submission, key: str | None, *, validate_only: bool
) -> JSONResponse:
    """202 with the queued job; 200 with a stored result, or with the outcome of a dry run."""
    if validate_only:
        resolved = {**prepared.job.resolved}
        resolved["dataset"] = {k: v for k, v in resolved["dataset"].items() if k != "path"}
        body = {"valid": True, "cached": prepared.cached, "resolved": resolved}
        if isinstance(spec, FinetuneSpec) and spec.processes == 1:  # nobody has measured several
            body["estimate"] = estimate(service, question_of(spec)).model_dump(mode="json")
        return JSONResponse({**body, "spec": spec.model_dump(mode="json")})
    job, replayed = prepared.job, False
    if not prepared.cached:
        job, replayed = submit(service, prepared, key, spec.model_dump(mode="json"))
    with service.database.read() as session:
        view = job_views(session, [job], cached=prepared.cached)[0]
    headers = {"Location": view.links["self"]}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    status = 200 if prepared.cached else 202
    if not view.terminal:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    return JSONResponse(view.model_dump(mode="json"), status, headers=headers)
