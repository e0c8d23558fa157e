"""Jobs as they are answered, each read by one statement that selects only what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    ColumnElement,
    Row,
    Select,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.orm import Session, aliased

from app.api.answers.next_steps import next_steps
from app.api.answers.views import COLLECTION
from app.db import Database
from app.db.tables import TERMINAL, Job, JobKind, Status, has_status
from app.errors import job_problem
from app.jobs.actions import Action, allowed_actions
from surgery import __version__
from surgery.schemas.answers.job import JobView, ProgressView
from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import shown

Json = dict[str, Any]
Columns = Sequence[Any]  # columns of jobs, and expressions with a name


def _ahead() -> ColumnElement[int | None]:
    """How many queued jobs come before a queued one, in the order in which they are claimed.

    Those of every project count, because workers serve all projects.
    """
    other = aliased(Job)
    count = select(func.count()).select_from(other).where(has_status(other, Status.QUEUED))
    higher = count.where(other.priority > Job.priority)
    older = count.where(
        other.priority == Job.priority,
        tuple_(other.queued_at, other.id) < tuple_(Job.queued_at, Job.id),
    )
    ahead = higher.correlate(Job).scalar_subquery() + older.correlate(Job).scalar_subquery()
    return case((has_status(Job, Status.QUEUED), ahead)).label("ahead")


_CHILD = aliased(Job, name="child")
_OVER = has_status(_CHILD, *TERMINAL)


def _of_children(what: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    """Something counted over the children of a comparison that has not ended."""
    counted = select(what).select_from(_CHILD).where(_CHILD.parent == Job.id).correlate(Job)
    is_comparison = Job.kind == literal_column(f"'{JobKind.COMPARISON}'")
    running = is_comparison & ~has_status(Job, *TERMINAL)
    return case((running, counted.scalar_subquery())).label(name)


AHEAD = _ahead()
CHILDREN = _of_children(func.count(), "children")
ENDED = _of_children(func.count().filter(_OVER), "ended")
LAST_ENDED = _of_children(func.max(_CHILD.finished_at).filter(_OVER), "last_ended")
# Those of predictions have an entry for every row, and a list would have hundreds of them.
LISTED_RESULT = case(
    (Job.kind == literal_column(f"'{JobKind.PREDICTION}'"), None), else_=Job.result
).label("result")
STATE: Columns = (Job.kind, Job.version, AHEAD, CHILDREN, ENDED)
"""What an answered job depends on, and nothing else: the content of its ETag."""


class Shown(NamedTuple):
    """A field of an answered job: the columns that it is made of, and how."""

    columns: Columns
    value: Callable[[Any], Any]


def _progress(row: Any) -> Json | None:
    """The progress that the worker reported; a comparison's counts its children that ended."""
    if row.children is None:
        progress = row.progress
        return {n: progress.get(n) for n in ProgressView.model_fields} if progress else None
    eta = None
    if row.last_ended is not None and row.started_at is not None:
        spent = (row.last_ended - row.started_at).total_seconds()
        eta = round(spent / row.ended * (row.children - row.ended), 1)
    return {
        "percent": round(100 * row.ended / row.children, 1),
        "step": row.ended,
        "total_steps": row.children,
        "unit": "runs",
        "eta_seconds": eta,
    }


def _error(row: Any) -> Json | None:
    """The error of a job as a whole problem."""
    if row.error is None:
        return None
    return {"log": None, **job_problem(row.error, f"/v1/jobs/{row.id}", row.request_id)}


def _links(row: Any) -> Json:
    """The paths of a job, of what belongs to it, and of what can be asked of it now."""
    links = {"self": f"/v1/{COLLECTION[row.kind]}/{row.id}", "events": f"/v1/jobs/{row.id}/events"}
    possible = [action for action in allowed_actions(row) if action is not Action.DELETE]
    links |= {action.value: f"/v1/jobs/{row.id}/{action}" for action in possible}
    if row.kind == JobKind.COMPARISON:
        return {**links, "children": f"/v1/jobs?parent={row.id}"}
    names = ("metrics", "checkpoints", "attempts", "logs")
    return {**links, **{name: f"/v1/jobs/{row.id}/{name}" for name in names}}


NOTHING_USED: Json = Usage().model_dump()


def _usage(row: Any) -> Json:
    return {**NOTHING_USED, **(row.usage or {}), "stored_bytes": row.stored_bytes}


def _warnings(row: Any) -> list[Json]:
    """What was noticed at submission, until a worker has started the job."""
    comparing = row.kind == JobKind.COMPARISON and row.status not in TERMINAL
    return row.warnings if comparing or row.status == Status.QUEUED else []


def _column(name: str) -> Shown:
    return Shown((getattr(Job, name),), lambda row: getattr(row, name))


_ASKED = (Job.id, Job.kind, Job.status, Job.parent, Job.pause_requested, Job.cancel_requested)
_RESULT = Job.result.label("result")
DERIVED = {
    "metadata": Shown((Job.labels,), lambda row: row.labels),
    "terminal": Shown((Job.status,), lambda row: row.status in TERMINAL),
    "progress": Shown((Job.progress, Job.started_at, CHILDREN, ENDED, LAST_ENDED), _progress),
    "queue": Shown((AHEAD,), lambda row: None if row.ahead is None else {"ahead": row.ahead}),
    "attempt": Shown(
        (Job.crashes, Job.max_attempts), lambda row: min(row.crashes + 1, row.max_attempts)
    ),
    "resolved": Shown((Job.resolved,), lambda row: shown(row.resolved)),
    "result": Shown((_RESULT,), lambda row: row.result),
    "cached": Shown((Job.result_of,), lambda row: row.result_of is not None),
    "transitions": Shown(
        (Job.transitions,), lambda row: [{"reason": None, **change} for change in row.transitions]
    ),
    "usage": Shown((Job.usage, Job.stored_bytes), _usage),
    "warnings": Shown((Job.warnings, Job.status, Job.kind), _warnings),
    "next_steps": Shown((*_ASKED, Job.spec, Job.error, _RESULT), next_steps),
    "error": Shown((Job.id, Job.error, Job.request_id), _error),
    "links": Shown(_ASKED, _links),
}
"""The fields that are not a column of the same name."""
FIELDS = {name: DERIVED.get(name) or _column(name) for name in JobView.model_fields}
Names = tuple[str, ...]
ALL: Names = tuple(FIELDS)


def select_jobs(names: Names, *more: Any) -> Select[Any]:
    """Selects what the named fields are made of, and further columns."""
    return select(*_columns(names, *more))


def _columns(names: Names, *more: Any) -> Columns:
    wanted = [column for name in names for column in FIELDS[name].columns]
    return list(dict.fromkeys([*wanted, *more]))


def select_page(names: Names, page: CTE, *more: Any) -> Select[Any]:
    """As `select_jobs`, of the jobs whose ids a page has, without the results of predictions.

    Their places are counted in one walk through the queue; one for each job would be as many walks.
    """
    wanted = _columns(names, *more)
    columns = [LISTED_RESULT if each is _RESULT else each for each in wanted]
    if not any(each is AHEAD for each in columns):
        return select(*columns).join(page, page.c.id == Job.id)
    queued, place = aliased(Job, name="queued"), aliased(Job, name="place")
    order = (queued.priority.desc(), queued.queued_at, queued.id)
    shown = exists().where(place.id == page.c.id, has_status(place, Status.QUEUED))
    places = (
        select(queued.id, (func.row_number().over(order_by=order) - 1).label("ahead"))
        .where(has_status(queued, Status.QUEUED), shown)  # no walk for a page without queued jobs
        .subquery("places")
    )
    placed = [places.c.ahead if each is AHEAD else each for each in columns]
    found = select(*placed).join(page, page.c.id == Job.id)
    return found.outerjoin(places, places.c.id == Job.id)


def document(row: Any, names: Names) -> Json:
    """The named fields of a job, from a row of such a query."""
    return {name: FIELDS[name].value(row) for name in names}


@dataclass(frozen=True)
class Found:
    """A job that was read: its kind, its ETag and the row."""

    kind: str
    tag: str
    row: Row[Any]


@lru_cache(maxsize=256)
def _statement(names: Names) -> Select[Any]:
    """The query for one job, kept because making and compiling it takes longer than its answer."""
    query = select_jobs(names, *STATE)
    return query.where(Job.id == bindparam("job"), Job.project == bindparam("project"))


def read_job(database: Database, project: str, job_id: str, names: Names) -> Found | None:
    """One job of a project; without names only its kind and its ETag, which are cheap to read."""
    rows = database.rows(_statement(names), {"job": job_id, "project": project})
    if not rows:
        return None
    row = rows[0]
    parts = (row.version, row.ahead, row.ended, row.children)
    tag = "-".join([__version__, *("" if part is None else str(part) for part in parts)])
    return Found(row.kind, f'"{tag}"', row)


WHOLE = select_jobs(ALL).where(Job.id == bindparam("job"))


def whole_job(session: Session, job_id: str) -> Json | None:
    """The document of a job, read in the caller's transaction; None if there is no such job."""
    row = session.execute(WHOLE, {"job": job_id}).one_or_none()
    return None if row is None else document(row, ALL)
