"""Fine-tunes that begin with the weights of another one's checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.deps import Service
from app.errors import Unprocessable
from app.reading import missing
from app.tables import Checkpoint, Job
from surgery.finetune_spec import FinetuneSpec
from surgery.merge import RECORD
from surgery.parentage import continuation_fault
from surgery.terms import Problem

POINTER = "/continue_from"


def resolve_continuation(
    service: Service, spec: FinetuneSpec, model: dict[str, Any], dataset: dict[str, Any]
) -> dict[str, Any]:
    """What a job remembers of the checkpoint it begins with; nothing where it begins with none.

    Raises Unprocessable where there is no such checkpoint, or it is of another model, problem or
    labels. Labels that only reading the data tells are compared by the worker.
    """
    if spec.continue_from is None:
        return {}
    with service.database.read() as session:
        row = session.get(Checkpoint, spec.continue_from)
    if row is None:
        raise _refused(
            f"no checkpoint {spec.continue_from!r}; GET /v1/jobs/{{id}}/checkpoints lists a job's"
        )
    try:
        record = json.loads(b"".join(service.storage.chunks(f"{row.path}/{RECORD}")))
    except FileNotFoundError as error:
        raise _refused(str(missing(service, row))) from error
    labels: Sequence[str] | None = dataset.get("labels")
    detail = continuation_fault(
        record, model["id"], model["fingerprint"], Problem(dataset["problem"]), labels
    )
    if detail is not None:
        raise _refused(detail)
    return {"continue_from": {"checkpoint": row.id, "job": row.job_id, "step": row.step}}


def hold_checkpoint(session: Session, job: Job) -> None:
    """Keep a checkpoint until the job that begins with it is inserted, or find that it went."""
    wanted = job.spec.get("continue_from")
    if wanted is None:
        return
    query = select(Checkpoint.id).where(Checkpoint.id == wanted).with_for_update(read=True)
    if session.scalar(query) is None:
        raise _refused(f"checkpoint {wanted} was deleted meanwhile; name another one")


def _refused(detail: str) -> Unprocessable:
    return Unprocessable(detail, errors=[{"pointer": POINTER, "detail": detail}])
