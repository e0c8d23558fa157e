"""Whether the API process is alive, and whether it can serve requests."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.api.deps import ServiceDep
from app.api.examples.answers import problems
from app.errors import NotMigrated, ServiceError
from surgery import __version__

router = APIRouter(tags=["platform"])


class Health(BaseModel):
    """The state of the API process."""

    status: str = Field("ok", description="Always `ok`; a process in trouble answers an error.")
    version: str = Field(__version__, description="The version of the service.")


class NotReady(ServiceError):
    """The service cannot answer requests yet."""

    status = 503
    code = "not_ready"


EXAMPLE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/json": {"example": {"status": "ok", "version": "0.1.0"}}},
        "description": "The process is alive, or the service ready.",
    },
}


@router.get("/healthz", summary="Check that the process is alive", responses=EXAMPLE)
async def healthz() -> Health:
    """Answers at once. It uses neither the database nor a thread, so that load cannot delay it."""
    return Health()


@router.get(
    "/readyz",
    summary="Check that the service can serve requests",
    responses={**EXAMPLE, **problems(503)},
)
def readyz(service: ServiceDep) -> Health:
    """Checks that the database answers and that every migration has been applied to it."""
    try:
        with service.database.read() as session:
            session.execute(text("SELECT 1"))
        service.database.check_version()
    except SQLAlchemyError as error:
        raise NotReady("the database does not answer", headers={"Retry-After": "5"}) from error
    except NotMigrated as error:
        raise NotReady(str(error)) from error
    return Health()
