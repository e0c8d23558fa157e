"""Whether the process lives, and whether it can serve."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.api.deps import ServiceDep
from app.errors import ServiceError
from surgery import __version__

router = APIRouter(tags=["platform"])


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"
    version: str = __version__


class NotReady(ServiceError):
    """The service cannot serve yet."""

    status = 503
    code = "not_ready"


EXAMPLE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": {"status": "ok", "version": "0.1.0"}}}}
}


@router.get("/healthz", summary="Does the process live?", responses=EXAMPLE)
async def healthz() -> Health:
    """Touches nothing else, and waits for no thread that other requests keep busy."""
    return Health()


@router.get(
    "/readyz", summary="Can it serve?", responses={**EXAMPLE, 503: {"description": "Not yet."}}
)
def readyz(service: ServiceDep) -> Health:
    """The database answers and has every migration."""
    try:
        with service.database.read() as session:
            session.execute(text("SELECT 1"))
        ready = service.database.is_at_head()
    except SQLAlchemyError as error:
        raise NotReady("the database does not answer", headers={"Retry-After": "5"}) from error
    if not ready:
        raise NotReady("the database lacks migrations; run surgeon db upgrade")
    return Health()
