"""API keys: make them, list them, revoke them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, model_validator
from sqlalchemy import func, select, update

from app.access.keys import make_key, sha256_of
from app.access.principal import Principal, Scope
from app.api.deps import KeyringDep, PrincipalDep, ServiceDep, require_json
from app.api.examples.answers import answers, body_examples, problems
from app.api.examples.platform import KEY_BODIES, KEYS, NEW_KEY
from app.api.http.idempotency import IdempotentRoute
from app.api.pages import Page, PagingDep
from app.api.routes.platform.projects import project_of
from app.db import db_now
from app.db.tables import ApiKey
from app.errors import NotFound
from app.service import Service
from surgery.schemas import Strict

router = APIRouter(prefix="/v1/keys", tags=["projects and keys"], route_class=IdempotentRoute)
Days = Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)]


class KeySpec(Strict):
    """A new API key."""

    name: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None, description="What the key is for, so that its owner knows it in the list."
    )
    scopes: list[Scope] = Field(
        [Scope.SUBMIT],
        min_length=1,
        max_length=3,
        description="What the key allows. `read`: read everything of its project. `submit`: also "
        "create, change and delete jobs, datasets and checkpoints. `admin`: also administer keys "
        "and webhooks, and read the audit log.",
    )
    expires_in_days: Days | None = Field(
        None, description="After how many days it stops working; null: never."
    )
    expires_at: AwareDatetime | None = Field(
        None, description="When it stops working, instead of `expires_in_days`; null: never."
    )
    project: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="The project that it belongs to; only the operator may name another's."
    )

    @model_validator(mode="after")
    def _ends_once_and_later(self) -> KeySpec:
        if self.expires_at is not None and self.expires_in_days is not None:
            raise ValueError("expires_at and expires_in_days exclude each other; send one")
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise ValueError("expires_at is in the past")
        return self


class KeyView(BaseModel):
    """An API key, without the key itself, which nobody knows but its owner."""

    id: str = Field(description="The key's id, which is also the middle part of the key.")
    project: str = Field(description="The project that it belongs to.")
    name: str | None = Field(description="What it is for.")
    scopes: list[Scope] = Field(
        description="What it allows: `admin` includes `submit`, which includes `read`."
    )
    status: Literal["active", "expired", "revoked"] = Field(description="Whether it works.")
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="When it stops working; null: never.")
    last_used_at: datetime | None = Field(
        description="When it was last used, to the minute; null: never."
    )
    revoked_at: datetime | None = Field(description="When it was revoked; null: it was not.")


class NewKey(KeyView):
    """A new API key."""

    key: str = Field(description="The key itself. It is shown once: the service keeps its hash.")


def _fields(row: ApiKey) -> dict[str, object]:
    ended = row.expires_at is not None and row.expires_at <= datetime.now(UTC)
    status = "revoked" if row.revoked_at else "expired" if ended else "active"
    names = [name for name in KeyView.model_fields if name != "status"]
    return {**{name: getattr(row, name) for name in names}, "status": status}


def key_view(row: ApiKey) -> KeyView:
    """A key as it is answered."""
    return KeyView.model_validate(_fields(row))


@router.post(
    "",
    summary="Make an API key",
    status_code=201,
    responses=answers(NEW_KEY, 404, status=201),
    dependencies=[Depends(require_json)],
)
def create_key(
    service: ServiceDep,
    principal: PrincipalDep,
    keyring: KeyringDep,
    response: Response,
    spec: Annotated[KeySpec, body_examples(KEY_BODIES)],
) -> NewKey:
    """Makes a key and answers it, for the only time.

    The first key of a service closes it: from then on every request needs one, also if all keys
    are revoked. Make an `admin` key first.
    """
    project = project_of(service, principal, spec.project or principal.project)
    identifier, key = make_key()
    row = ApiKey(
        id=identifier,
        project=project.id,
        name=spec.name,
        sha256=sha256_of(key),
        scopes=sorted({scope.value for scope in spec.scopes}),
        expires_at=spec.expires_at,
    )
    row.created_at = db_now()
    if spec.expires_in_days is not None:
        row.expires_at = db_now(spec.expires_in_days * 86400)
    with service.database.write() as session:
        session.add(row)
        session.flush()
        session.refresh(row)
    keyring.forget_all()
    response.headers["Location"] = f"/v1/keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKey.model_validate({**_fields(row), "key": key})


@router.get("", summary="List API keys", responses=answers(KEYS, 404))
def get_keys(
    service: ServiceDep,
    principal: PrincipalDep,
    paging: PagingDep,
    project: Annotated[
        str | None,
        Query(
            max_length=64,
            description="Keys of this project instead of one's own; for the operator only.",
        ),
    ] = None,
) -> Page[KeyView]:
    """Lists a project's keys, newest first, without the keys themselves."""
    owner = project_of(service, principal, project or principal.project)
    query = select(ApiKey).where(ApiKey.project == owner.id)
    return paging.page(service.database, query, (ApiKey.created_at, ApiKey.id), key_view)


@router.delete(
    "/{key_id}",
    summary="Revoke an API key",
    status_code=204,
    response_description="The key was revoked.",
    responses=problems(404),
)
def revoke_key(
    service: ServiceDep,
    principal: PrincipalDep,
    keyring: KeyringDep,
    key_id: Annotated[
        str, Path(max_length=64, description="The id of an API key, such as `key_…`.")
    ],
) -> None:
    """Revokes a key for ever. It stays in the list, and revoking it again changes nothing.

    This process refuses it at once, others within a second.
    """
    _revoke(service, principal, key_id)
    keyring.forget(key_id)


def _revoke(service: Service, principal: Principal, key_id: str) -> None:
    query = update(ApiKey).where(ApiKey.id == key_id)
    if not principal.operates:
        query = query.where(ApiKey.project == principal.project)
    # A second revocation leaves the moment of the first.
    revoked = query.values(revoked_at=func.coalesce(ApiKey.revoked_at, db_now()))
    with service.database.write() as session:
        if session.scalar(revoked.returning(ApiKey.id)) is None:
            raise NotFound(f"no API key {key_id!r}; GET /v1/keys lists them")
