"""Projects: the tenants of a service, each with its own jobs, datasets, keys and limits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, Field, StringConstraints, field_validator
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.access.limits import Limits
from app.access.principal import Principal
from app.api.deps import KeyringDep, PrincipalDep, ServiceDep, require_json
from app.api.examples.answers import answers, body_examples
from app.api.examples.platform import PROJECT, PROJECT_BODIES, PROJECT_CHANGES, PROJECTS
from app.api.http.idempotency import IdempotentRoute
from app.api.pages import Page, PagingDep
from app.db import db_now
from app.db.tables import Project, new_id
from app.errors import Conflict, Forbidden, NotFound
from app.service import Service
from surgery.schemas import Strict

router = APIRouter(prefix="/v1/projects", tags=["projects and keys"], route_class=IdempotentRoute)
Json = dict[str, Any]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class ProjectSpec(Strict):
    """A new project."""

    name: Name = Field(description="A name that no other project has.")
    limits: Limits = Field(
        Limits(), description="Limits that differ from the service's; the others are the service's."
    )


class ProjectChange(Strict):
    """What to change of a project; fields that are left out stay."""

    name: Name | None = Field(None, description="A new name that no other project has.")
    limits: Limits = Field(
        Limits(),
        description="Limits to change; null gives one back to the service. The others stay.",
    )

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str:
        if name is None:
            raise ValueError("must be a name; leave it out to keep the name")
        return name


class ProjectView(BaseModel):
    """A project."""

    id: str = Field(description="The project's id.")
    name: str = Field(description="The project's name.")
    limits: Json = Field(
        description="The limits that differ from the service's; GET /v1/limits has all of them."
    )
    created_at: datetime = Field(description="When it was made.")


def project_view(row: Project) -> ProjectView:
    """A project as it is answered."""
    return ProjectView.model_validate(row, from_attributes=True)


def require_operator(principal: PrincipalDep) -> Principal:
    """Whoever sends the request, if it is the service's operator. Raises Forbidden."""
    if not principal.operates:
        raise Forbidden(
            "only an admin key of the default project may make and change projects; ask whoever "
            "operates this service"
        )
    return principal


ProjectId = Annotated[str, Path(max_length=64, description="The id of a project, such as `pr_…`.")]


def find_project(project_id: ProjectId, service: ServiceDep, principal: PrincipalDep) -> Project:
    """The project that the path names, if the caller may know of it. Raises NotFound."""
    return project_of(service, principal, project_id)


def project_of(service: Service, principal: Principal, project_id: str) -> Project:
    """A project by its id. Raises NotFound for another's, unless the operator asks."""
    with service.database.read() as session:
        row = session.get(Project, project_id)
    if row is None or not (principal.operates or row.id == principal.project):
        detail = f"no project {project_id!r}; GET /v1/projects lists them"
        raise NotFound(detail, errors=[{"pointer": "/project", "detail": detail}])
    return row


ProjectDep = Annotated[Project, Depends(find_project)]


@router.post(
    "",
    summary="Make a project",
    status_code=201,
    responses=answers(PROJECT, 409, status=201),
    dependencies=[Depends(require_json), Depends(require_operator)],
)
def create_project(
    service: ServiceDep,
    response: Response,
    spec: Annotated[ProjectSpec, body_examples(PROJECT_BODIES)],
) -> ProjectView:
    """Makes a project, which has nothing yet. Make its first key with `POST /v1/keys`.

    Only an admin key of the default project may do this: it is the service's operator's.
    """
    row = Project(id=new_id("pr"), name=spec.name, limits=spec.limits.model_dump(exclude_none=True))
    row.created_at = db_now()
    _store(service, row)
    response.headers["Location"] = f"/v1/projects/{row.id}"
    return project_view(row)


@router.get("", summary="List projects", responses=answers(PROJECTS))
def get_projects(
    service: ServiceDep, principal: PrincipalDep, paging: PagingDep
) -> Page[ProjectView]:
    """Lists projects, newest first: all of them for the operator, for others their own."""
    query = select(Project)
    if not principal.operates:
        query = query.where(Project.id == principal.project)
    return paging.page(service.database, query, (Project.created_at, Project.id), project_view)


@router.get("/{project_id}", summary="Get a project", responses=answers(PROJECT, 404))
def get_project(row: ProjectDep) -> ProjectView:
    """Answers a project's name and limits."""
    return project_view(row)


@router.patch(
    "/{project_id}",
    summary="Change a project",
    responses=answers(PROJECT, 404, 409),
    dependencies=[Depends(require_json)],
)
def change_project(
    row: ProjectDep,
    service: ServiceDep,
    principal: PrincipalDep,
    keyring: KeyringDep,
    change: Annotated[ProjectChange, body_examples(PROJECT_CHANGES)],
) -> ProjectView:
    """Changes a project's name or limits. Only the operator may do this.

    Other API processes apply new limits within a second.
    """
    require_operator(principal)
    changed = _store(service, row, change)
    keyring.forget_all()
    return project_view(changed)


def _store(service: Service, row: Project, change: ProjectChange | None = None) -> Project:
    """Insert a project, or change a stored one. Raises Conflict if the name is taken."""
    try:
        with service.database.write() as session:
            if change is None:
                session.add(row)
            else:
                row = session.get_one(Project, row.id, with_for_update=True)
                row.name = change.name or row.name
                limits = row.limits | change.limits.model_dump(exclude_unset=True)
                row.limits = {name: value for name, value in limits.items() if value is not None}
            session.flush()
            session.refresh(row)
    except IntegrityError as error:
        name = (change and change.name) or row.name
        detail = f"there is a project {name!r} already; choose another name"
        raise Conflict(detail, errors=[{"pointer": "/name", "detail": detail}]) from error
    return row
