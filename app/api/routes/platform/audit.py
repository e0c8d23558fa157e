"""The audit log: who changed what through the API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import select

from app.api.deps import PrincipalDep, ServiceDep
from app.api.examples.answers import answers
from app.api.examples.platform import AUDIT
from app.api.pages import Page, PagingDep
from app.api.routes.platform.projects import project_of
from app.db.tables import AuditEvent

router = APIRouter(prefix="/v1/audit", tags=["projects and keys"])


class AuditView(BaseModel):
    """One change."""

    seq: int = Field(description="Changes are numbered in their order, over all projects.")
    actor: str = Field(
        description="The id of the key that made the change, `env-…` for a key of the service's "
        "environment, `anonymous` where no key is needed."
    )
    action: str = Field(description="The operation, by its `operationId`, such as `create_key`.")
    target: str | None = Field(description="The id of what was created, changed or deleted.")
    request_id: str | None = Field(description="The id of the request in the server's log.")
    data: dict[str, Any] = Field(description="The request's method and path.")
    at: datetime = Field(description="When it was made.")


@router.get("", summary="List changes", responses=answers(AUDIT, 404))
def get_audit(
    service: ServiceDep,
    principal: PrincipalDep,
    paging: PagingDep,
    action: Annotated[
        list[Annotated[str, StringConstraints(pattern="^[a-z_]+$", max_length=80)]] | None,
        Query(description="Only these operations, such as `create_key`. Repeated: any of these."),
    ] = None,
    actor: Annotated[
        str | None, Query(max_length=200, description="Only changes by this key's id.")
    ] = None,
    target: Annotated[
        str | None, Query(max_length=300, description="Only changes of what has this id.")
    ] = None,
    project: Annotated[
        str | None,
        Query(
            max_length=64,
            description="Changes by keys of this project instead of one's own; for the operator "
            "only.",
        ),
    ] = None,
) -> Page[AuditView]:
    """Lists the changes that keys of a project made, newest first.

    Every request that created, changed or deleted something is here. Reads, dry runs and requests
    that were refused are not.
    """
    owner = project_of(service, principal, project or principal.project)
    query = select(AuditEvent).where(AuditEvent.project == owner.id)
    if action:
        query = query.where(AuditEvent.action.in_(action))
    for column, value in ((AuditEvent.actor, actor), (AuditEvent.target, target)):
        if value is not None:
            query = query.where(column == value)
    return paging.page(service.database, query, (AuditEvent.seq,), _view)


def _view(row: AuditEvent) -> AuditView:
    return AuditView.model_validate(row, from_attributes=True)
