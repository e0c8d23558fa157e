"""Equal rankings are computed once. Only reads; the state machine changes the jobs.

Of equal rankings in flight, the first is computed and the others wait for it (`waits_for`), as do
fine-tunes that choose their layers by it. A ranking that another has computed refers to the one
whose result it has (`result_of`), so that no result is stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from app.db.tables import TERMINAL, Job, JobKind, Status

IN_FLIGHT = (Status.QUEUED, Status.RUNNING)


@dataclass(frozen=True)
class RankingKey:
    """What equal rankings have in common."""

    project: str
    digest: str

    @property
    def lock(self) -> str:
        """The name of the lock under which a job decides whether it shares a ranking."""
        return f"{self.project} {self.digest}"


def key_of(ranking: Job) -> RankingKey:
    """What a ranking has in common with its equals."""
    return RankingKey(ranking.project, ranking.digest)


def _equal(key: RankingKey) -> ColumnElement[bool]:
    return and_(
        Job.project == key.project,
        Job.digest == key.digest,
        Job.kind == JobKind.RANKING,
        Job.result_of.is_(None),
    )


def computed_ranking(session: Session, key: RankingKey) -> Job | None:
    """The newest ranking of this key that was computed."""
    query = select(Job).where(_equal(key), Job.status == Status.SUCCEEDED)
    return session.scalar(query.order_by(Job.id.desc()).limit(1))


def ranking_in_flight(session: Session, key: RankingKey, other_than: str) -> Job | None:
    """Another ranking of this key that is computed now, or will be when a worker is free."""
    query = select(Job).where(
        _equal(key),
        Job.id != other_than,
        Job.status.in_(IN_FLIGHT),
        Job.waits_for.is_(None),
        Job.cancel_requested.is_(False),
        Job.pause_requested.is_(False),
    )
    return session.scalar(query.order_by(Job.created_at, Job.id).limit(1))


def _shares() -> ColumnElement[bool]:
    """Whether a job waits for another caller's ranking, not for one of its own comparison."""
    return or_(Job.kind == JobKind.RANKING, Job.parent.is_(None))


def may_go_on() -> ColumnElement[bool]:
    """Whether a queued job waits for a ranking that is not in flight any more."""
    awaited = aliased(Job)
    in_flight = exists().where(awaited.id == Job.waits_for, awaited.status.in_(IN_FLIGHT))
    return and_(Job.waits_for.is_not(None), Job.status == Status.QUEUED, _shares(), ~in_flight)


def may_go_on_ids(session: Session) -> Sequence[str]:
    """The jobs whose ranking is not in flight any more: rankings first, the oldest first."""
    order = (Job.kind.desc(), Job.queued_at, Job.id)
    return session.scalars(select(Job.id).where(may_go_on()).order_by(*order)).all()


def others_waiting_for(ranking_id: str) -> ColumnElement[bool]:
    """The jobs that wait for the same ranking, beside those of a comparison of its own."""
    return and_(Job.waits_for == ranking_id, Job.status.not_in(TERMINAL), _shares())
