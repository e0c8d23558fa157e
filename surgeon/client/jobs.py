"""Jobs as objects: what they are, what came of them, how they look, and what their methods do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from surgeon.client import calls
from surgeon.client.answers import parsed
from surgeon.client.calls import Service
from surgeon.client.errors import JobFailed, JobUnfinished
from surgeon.client.events import Event
from surgeon.client.steps import Flow, Stream
from surgeon.client.transfers import download
from surgery.schemas.answers.checkpoint import CheckpointView
from surgery.schemas.answers.job import JobView
from surgery.schemas.jobs.comparison import ComparisonResult
from surgery.schemas.jobs.export import ExportResult
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.prediction import PredictionResult
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Json = dict[str, Any]
Result = TypeVar("Result", bound=BaseModel)
Handle = TypeVar("Handle", bound="JobHandle[Any]")
RESULTS: Mapping[str, type[BaseModel]] = {
    "ranking": RankingResult,
    "finetune": FinetuneResult,
    "search": SearchResult,
    "prediction": PredictionResult,
    "export": ExportResult,
    "comparison": ComparisonResult,
}


class JobHandle(Generic[Result]):
    """A job, as it was last heard of. ``document`` is the JSON that the service answered."""

    def __init__(self, service: Service, document: Json) -> None:
        self.service = service
        self.document = document

    @property
    def driver(self) -> Any:
        """What takes the steps of this job's flows."""
        return self.service.driver

    @property
    def id(self) -> str:
        """The job's id, which other requests take in its place."""
        return str(self.document["id"])

    @property
    def status(self) -> str:
        """`queued`, `running`, `paused`, `succeeded`, `failed` or `cancelled`."""
        return str(self.document["status"])

    @property
    def state(self) -> JobView:
        """All that is known of the job. Raises ApiError if the service is of another version."""
        return parsed(JobView, self.document)

    @property
    def result(self) -> Result:
        """What came of the job. Raises JobFailed or, before its end, JobUnfinished."""
        if self.status == "succeeded":
            return parsed(RESULTS[self.document["kind"]], self.document["result"])  # type: ignore[return-value]
        if self.document["terminal"]:
            raise JobFailed(self.document)
        raise JobUnfinished(f"{self.id} is {self.status}; wait() for its result")

    def plot(self) -> Figure:
        """The result as a figure of matplotlib. Needs `pip install layer-surgeon[plot]`."""
        from surgeon.plots import figure_of

        return figure_of(self.result)

    def __repr__(self) -> str:
        return f"<{self.document['kind']} {self.id}, {self.status}>"

    def _repr_html_(self) -> str:
        """The tables of the command line, for notebooks."""
        from surgeon.terminal.html import job_html

        return job_html(self.document)


def waited(
    job: Handle, *, progress: bool = False, on_update: Callable[[Json], None] | None = None
) -> Flow[Handle]:
    """Wait until the job has ended, and return it; a restart of the service does not matter.

    ``progress`` shows a bar on standard error, or lines where that is no terminal. ``on_update`` is
    called with the JSON of every state.
    """
    with _display(progress) as shown:

        def updated(document: Json) -> None:
            for each in (shown, on_update):
                if each:
                    each(document)

        job.document = yield from calls.wait(job.service, job.document, updated)
    return job


def _display(progress: bool) -> AbstractContextManager[Callable[[Json], None] | None]:
    if not progress:
        return nullcontext()
    from surgeon.terminal.progress import job_progress

    return job_progress()


def refreshed(job: Handle) -> Flow[Handle]:
    """Ask for the job's present state, and return the job."""
    job.document = yield from calls.job(job.service, job.id)
    return job


def followed(job: JobHandle[Any], after: int = 0) -> Stream[Event]:
    """The job's events after the one with this number, each as it happens, until it has ended.

    Also how far it is: `progress`, at most once a second. A connection that breaks off is made
    again, and no event is lost. Afterwards the job is at its last state.
    """
    yield from calls.follow(job.service, job.id, after)
    job.document = yield from calls.job(job.service, job.id)


def logged(
    job: JobHandle[Any], attempt: int | None = None, *, follow: bool = False
) -> Stream[Json]:
    """The lines of the job's log: those of one attempt, by default the latest one.

    ``follow`` waits for further lines until that attempt, or else the job, has ended.
    """
    yield from calls.log_lines(job.service, job.id, attempt, follow=follow)


def cancelled(job: Handle) -> Flow[Handle]:
    """Ask the job to end, and return it; wait() until its worker has stopped."""
    job.document = yield from calls.cancel(job.service, job.id)
    return job


def paused(job: Handle) -> Flow[Handle]:
    """Ask the job to pause: its state is saved, and its device is free."""
    job.document = yield from calls.pause(job.service, job.id)
    return job


def resumed(job: Handle) -> Flow[Handle]:
    """Let the job go on."""
    job.document = yield from calls.resume(job.service, job.id)
    return job


def tried_again(job: Handle) -> Flow[Handle]:
    """Submit the request of a failed or cancelled job again; returns the new job."""
    return type(job)(job.service, (yield from calls.retry(job.service, job.id)))


def deleted(job: JobHandle[Any]) -> Flow[None]:
    """Delete the job, which has ended, with everything that belongs to it."""
    yield from calls.delete(job.service, job.id)


def checkpoints(job: JobHandle[Any]) -> Flow[list[CheckpointView]]:
    """The job's checkpoints, oldest first."""
    stored = yield from calls.checkpoints(job.service, job.id)
    return [parsed(CheckpointView, each) for each in stored]


def downloaded(
    job: JobHandle[Any], folder: Path | str, form: str | None = None, *, progress: bool = False
) -> Flow[Path]:
    """Download the best checkpoint of a fine-tune into a folder; returns the folder.

    ``form`` `full` is a folder that transformers loads by itself. A download that broke off goes on
    where it did, and its digests are checked.
    """
    best = yield from calls.best_checkpoint(job.service, job.id)
    return (yield from download(job.service, best, folder, form, progress=progress))
