"""Jobs of every kind: list and read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import CTE, select, union_all
from sqlalchemy.orm import aliased

from app.api.answers.job_documents import ALL, FIELDS, Names, document, read_job, select_page
from app.api.deps import JobId, ServiceDep, no_job
from app.api.examples.answers import JOB, JOBS, answers
from app.api.following.waiting import WAITS, WaitingRoute
from app.api.http.reads import has_current, json_answer, not_modified
from app.api.http.request_checks import MetadataFilter
from app.api.pages import AnySelect, Page, Paging, PagingDep
from app.db.tables import Job, JobKind, JobLabel, Status
from app.errors import Unprocessable
from app.service import Service
from surgery.errors import nearest
from surgery.schemas.answers.job import JobView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=WaitingRoute)
ORDER = (Job.created_at, Job.id)  # not by id alone: ids begin with the kind of job
MAX_COMBINATIONS = 32  # of values of different filters, each of which is looked up by itself
ANY = "Given several times: with any of them."
Text = Annotated[str, Query(max_length=300)]
StatusFilter = Annotated[
    list[Status] | None, Query(description=f"Only jobs with this status. {ANY}")
]
ModelFilter = Annotated[
    list[Text] | None, Query(description=f"Only jobs on the model with this id. {ANY}")
]
DatasetFilter = Annotated[
    list[Text] | None, Query(description=f"Only jobs on the dataset with this id. {ANY}")
]
KindFilter = Annotated[list[JobKind] | None, Query(description=f"Only jobs of this kind. {ANY}")]
ParentFilter = Annotated[
    list[Text] | None,
    Query(description=f"Only the children of the job with this id. {ANY}"),
]
Fields = Annotated[
    str | None,
    Query(
        max_length=1000,
        description="Only these fields of each job, separated by commas, such as "
        "`id,status,progress`. The others are not even read from the database.",
    ),
]


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list has, where its page begins, and which fields it shows."""

    columns: Mapping[Any, Sequence[str] | None]  # a column and its values; None: all
    metadata: Mapping[str, Sequence[str]]
    paging: Paging
    names: Names


async def named_fields(fields: Fields = None) -> Names:
    """The fields of a job that a request asks for. Raises Unprocessable for one that none has."""
    if fields is None:
        return ALL
    given = [name.strip() for name in fields.split(",")]
    unknown = [name for name in dict.fromkeys(given) if name not in FIELDS]
    if unknown:
        faults = [{"pointer": "/fields", "detail": _no_field(name)} for name in unknown]
        raise Unprocessable(faults[0]["detail"], errors=faults)
    return tuple(name for name in ALL if name in given)


def _no_field(name: str) -> str:
    near = nearest(name, list(FIELDS))
    hint = f"did you mean {near!r}?" if near else f"a job has: {', '.join(FIELDS)}"
    return f"fields: a job has no field {name[:100]!r}; {hint}"


NamesDep = Annotated[Names, Depends(named_fields)]


async def job_filter(
    metadata: MetadataFilter,
    paging: PagingDep,
    names: NamesDep,
    status: StatusFilter = None,
    model: ModelFilter = None,
    dataset: DatasetFilter = None,
) -> JobFilter:
    """The query parameters that every list of jobs takes."""
    columns = {Job.status: status, Job.model: model, Job.dataset: dataset}
    return JobFilter(columns, metadata, paging, names)


JobFilterDep = Annotated[JobFilter, Depends(job_filter)]


def list_jobs(
    service: Service,
    filters: JobFilter,
    kinds: Sequence[JobKind] | None,
    parents: Sequence[str] | None = None,
) -> Response:
    """A page of the jobs that pass the filters, newest first.

    One statement finds the page and reads of its rows what the answer shows.
    """
    given = {**filters.columns, Job.kind: kinds, Job.parent: parents}
    columns = {column: values for column, values in given.items() if values}
    page = _page(service.project, columns, filters)
    statement = select_page(filters.names, page, *ORDER).order_by(
        *(column.desc() for column in ORDER)
    )
    found = service.database.rows(statement, {})
    rows, following = filters.paging.split(found, lambda row: (row.created_at, row.id))
    answer = {
        "data": [document(row, filters.names) for row in rows],
        "next_cursor": following,
        "has_more": following is not None,
    }
    return json_answer(answer)


def _page(project: str, columns: Mapping[Any, Sequence[str]], filters: JobFilter) -> CTE:
    """The ids of the jobs of a page, of which every given column and label has one of its values.

    Each combination of values is a query of its own, which finds its newest jobs in the order of an
    index; of those, the newest are the page. Over a list of values, a database would sort all.
    """
    labels = {aliased(JobLabel): name for name in filters.metadata}
    query, order = _listed(project, labels, of_jobs=bool(columns))
    given = {**columns, **{label.value: filters.metadata[labels[label]] for label in labels}}
    combined = [
        [column == value for value in dict.fromkeys(values)] for column, values in given.items()
    ]
    if prod(map(len, combined)) > MAX_COMBINATIONS:
        combined = [[column.in_(values)] for column, values in given.items()]
    queries = [
        filters.paging.limited(query.where(*conditions), order) for conditions in product(*combined)
    ]
    if len(queries) == 1:
        return queries[0].cte("page")
    found = union_all(*(select(each.subquery()) for each in queries)).subquery()
    newest = select(found).order_by(found.c.created_at.desc(), found.c.id.desc())
    return newest.limit(filters.paging.limit + 1).cte("page")


def _listed(
    project: str, labels: Mapping[type[JobLabel], str], *, of_jobs: bool
) -> tuple[AnySelect, Sequence[Any]]:
    """A query for when jobs were created and for their ids, and these two columns.

    Jobs with labels are found by the first of them; ``of_jobs`` says whether columns of their rows
    are asked for, too.
    """
    if not labels:
        return select(*ORDER).where(Job.project == project), ORDER
    first, *others = labels
    order = (first.created_at, first.job_id)
    query = select(first.created_at, first.job_id.label("id"))
    query = query.where(first.project == project, first.key == labels[first])
    for label in others:
        same_job = (label.created_at == first.created_at, label.job_id == first.job_id)
        query = query.where(label.project == project, label.key == labels[label], *same_job)
    return query.join(Job, Job.id == first.job_id) if of_jobs else query, order


def answer_job(
    service: Service,
    job_id: str,
    request: Request,
    names: Names,
    check_kind: Callable[[str, str], None] | None = None,
) -> Response:
    """A job, or 304 for a caller that has its current state already.

    A caller that may have it costs only what the ETag is made of. Raises NotFound.
    """
    conditional = "if-none-match" in request.headers
    found = read_job(service.database, service.project, job_id, () if conditional else names)
    if found is not None and conditional and not has_current(request.headers, found.tag):
        found = read_job(service.database, service.project, job_id, names)
        conditional = False
    if found is None:
        raise no_job(job_id)
    if check_kind is not None:
        check_kind(job_id, found.kind)
    if conditional:
        return not_modified(found.tag)
    return json_answer(document(found.row, names), found.tag)


@router.get("", summary="List jobs", response_model=Page[JobView], responses=answers(JOBS))
def get_jobs(
    service: ServiceDep, filters: JobFilterDep, kind: KindFilter = None, parent: ParentFilter = None
) -> Response:
    """Lists jobs of every kind, newest first.

    Parameters `metadata[key]=value` leave only the jobs that were submitted with these labels.
    """
    return list_jobs(service, filters, kind, parent)


@router.get(
    "/{job_id}",
    summary="Get a job",
    response_model=JobView,
    responses=answers(JOB, 404),
    dependencies=[WAITS],
)
def get_job(job_id: JobId, service: ServiceDep, request: Request, names: NamesDep) -> Response:
    """Answers the current state of a job. Poll until `terminal` is true.

    Send the `ETag` of an answer as `If-None-Match` with the next request: while nothing about the
    job has changed, the answer is 304 and has no body. With `Prefer: wait=n` it comes only when
    something has changed, or after n seconds.
    """
    return answer_job(service, job_id, request, names)
