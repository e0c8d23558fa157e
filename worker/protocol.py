"""The messages between a supervisor and its processes: JSON lines over two pipes.

Each type of message is a class. The supervisor sends orders and the processes send reports. A
process reads strangers' models, so the supervisor checks each report against its class and relies
on nothing else. A process dies with its supervisor.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, TypeAdapter

from surgery.errors import MAX_FAULTS, SurgeryError
from surgery.io.reporter import CheckpointSummary, Reporter, Stopped
from surgery.io.storable import storable_json
from surgery.schemas.jobs.estimate import Probe
from surgery.schemas.resolved import (
    Learned,
    PeakMemory,
    Resolved,
    ResolvedFinetune,
    ResolvedSelection,
)

Json = dict[str, Any]
Folder = Annotated[Path, PlainSerializer(str)]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # that a double holds exactly
EXPORTED = "export"  # the name of the folder that an export puts together
PROGRESS_SECONDS = 0.25  # between two reports of progress
PR_SET_PDEATHSIG = 1
AnyMessage = TypeVar("AnyMessage")


class ProtocolModel(BaseModel):
    """The base of messages, and of what messages contain."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Message(ProtocolModel):
    """The base of all messages. Each class of message has its own ``type``."""

    def line(self) -> str:
        """The message as a line of JSON. Raises ValueError for NaN, which JSON does not have."""
        return json.dumps(self.model_dump(), allow_nan=False) + "\n"


# Parts of messages.


class FetchedModel(ProtocolModel):
    """A model with a checked copy in the cache. The fields are those of `ModelSource`."""

    id: str
    origin: str
    revision: str | None
    fingerprint: str
    config: Json
    files: tuple[str, ...]


class FetchedDataset(ProtocolModel):
    """A folder with a stored dataset. If ``metrics`` is None, they follow from its report."""

    folder: Folder
    metrics: tuple[str, ...] | None


class FetchedPreset(ProtocolModel):
    """A further preset to measure on. The fields are those of `MeasuredSet`."""

    id: str
    folder: Folder
    metrics: tuple[str, ...]
    labels: tuple[str, ...] | None


class ModelInputs(ProtocolModel):
    """The model of a job, on this disk."""

    model: FetchedModel
    cache: Folder


class JobInputs(ModelInputs):
    """The model and the dataset of a job, both on this disk."""

    dataset: FetchedDataset


class SavedCheckpoint(ProtocolModel):
    """A complete folder with a checkpoint, and the run's summary of it."""

    path: Folder
    summary: CheckpointSummary


class PrefixRoom(ProtocolModel):
    """How much memory and disk the operator allows for the cache of frozen layers' outputs.

    A limit of None stands for a quarter of what is free.
    """

    folder: Folder
    memory_bytes: int | None
    disk_bytes: int | None


# Orders, from the supervisor.


class WorkOrder(Message):
    """An order to do something. ``scratch`` is a folder for this attempt alone."""

    spec: Json
    scratch: Folder


class FetchOrder(WorkOrder):
    """Put a job's model, dataset and presets into the cache.

    ``reads_dataset`` is False for a job that needs only the model.
    """

    type: Literal["fetch"] = "fetch"
    resolved: Resolved
    reads_dataset: bool
    mirrors: tuple[Folder, ...]
    cache: Folder
    offline: bool


class RankingOrder(WorkOrder):
    """Rank the layers of a model."""

    type: Literal["ranking"] = "ranking"
    inputs: JobInputs
    cpu_seconds: float

    @property
    def batching(self) -> Json:
        """The options that hold ``batch_size`` and ``max_length``."""
        return self.spec


class SearchOrder(WorkOrder):
    """Search for the layers to train and their learning rate.

    ``state_folder`` holds the state of an interrupted attempt to resume from.
    """

    type: Literal["search"] = "search"
    inputs: JobInputs
    cpu_seconds: float
    state_folder: Folder | None
    room: PrefixRoom

    @property
    def batching(self) -> Json:
        """The options that hold ``batch_size`` and ``max_length``."""
        options: Json = self.spec["training"]
        return options


class FinetuneOrder(WorkOrder):
    """Fine-tune a model.

    ``ranking`` is the result of the ranking that the job waited for, ``search`` that of the search.
    ``continue_folder`` holds the checkpoint to start from, ``state_folder`` the state of an
    interrupted attempt to resume from: of its search, until that has chosen the layers.
    """

    type: Literal["finetune"] = "finetune"
    id: str
    resolved: ResolvedFinetune
    inputs: JobInputs
    cpu_seconds: float
    also: tuple[FetchedPreset, ...]
    ranking: Json | None
    search: Json | None
    continue_folder: Folder | None
    state_folder: Folder | None
    earlier_best: SavedCheckpoint | None
    room: PrefixRoom

    @property
    def batching(self) -> Json:
        """The options that hold ``batch_size`` and ``max_length``."""
        options: Json = self.spec["training"]
        return options


class PredictionOrder(WorkOrder):
    """Predict with the checkpoint in ``checkpoint_folder`` for ``rows``."""

    type: Literal["prediction"] = "prediction"
    inputs: ModelInputs
    cpu_seconds: float
    checkpoint_folder: Folder
    rows: list[Json]


class ExportOrder(WorkOrder):
    """Put the checkpoint in ``checkpoint_folder`` together in the form that ``spec`` names."""

    type: Literal["export"] = "export"
    inputs: ModelInputs
    cpu_seconds: float
    checkpoint_folder: Folder


class Exported(ProtocolModel):
    """What an export is called, and where its model comes from."""

    export: str  # the export's own job
    job: str  # the fine-tune
    name: str | None
    metadata: dict[str, str]


class PublishOrder(WorkOrder):
    """Hand the files in ``folder`` over to the service that ``spec`` names."""

    type: Literal["publish"] = "publish"
    folder: Folder
    digest: str
    about: Exported


class Cancel(Message):
    """Stop within a step; the job is cancelled."""

    type: Literal["cancel"] = "cancel"


class Drain(Message):
    """Stop within a step, and save a state from which the job can resume."""

    type: Literal["drain"] = "drain"


JobOrder = RankingOrder | FinetuneOrder | SearchOrder | PredictionOrder | ExportOrder
FETCHER_ORDERS: TypeAdapter[FetchOrder | Cancel | Drain] = TypeAdapter(
    Annotated[FetchOrder | Cancel | Drain, Field(discriminator="type")]
)
CHILD_ORDERS: TypeAdapter[JobOrder | Cancel | Drain] = TypeAdapter(
    Annotated[JobOrder | Cancel | Drain, Field(discriminator="type")]
)

PUBLISHER_ORDERS: TypeAdapter[PublishOrder | Cancel | Drain] = TypeAdapter(
    Annotated[PublishOrder | Cancel | Drain, Field(discriminator="type")]
)


# Reports, from a process.


class Ready(Message):
    """The process has started."""

    type: Literal["ready"] = "ready"


class Probed(Message):
    """What the process measured of its device when it started, before any job."""

    type: Literal["probed"] = "probed"
    probe: Probe


class PhaseBegun(Message):
    """A phase of the run begins: load, warmup, score, train …"""

    type: Literal["phase"] = "phase"
    name: Annotated[str, Field(max_length=40)]


class Progress(Message):
    """How far the current phase has come."""

    type: Literal["progress"] = "progress"
    step: Count
    total_steps: Count | None
    unit: str


class MetricValues(Message):
    """Metrics that were measured after an optimizer step."""

    type: Literal["metric"] = "metric"
    step: int
    epoch: float
    values: dict[str, float | None]


class CheckpointSaved(Message, SavedCheckpoint):
    """A checkpoint to store."""

    type: Literal["checkpoint"] = "checkpoint"


class StateSaved(Message):
    """A complete folder with a state to resume from."""

    type: Literal["state"] = "state"
    path: Folder
    step: int


class EventFilesSaved(Message):
    """A complete folder with the TensorBoard files written so far."""

    type: Literal["log"] = "log"
    path: Folder


class RankingComputed(Message):
    """The ranking that a fine-tune computed to choose its layers, and the chosen layers."""

    type: Literal["ranking"] = "ranking"
    options: Json
    result: Json
    resolved: ResolvedSelection


class SearchComputed(Message):
    """The search that a fine-tune ran to choose its layers, and what it found."""

    type: Literal["search"] = "search"
    spec: Json
    result: Json
    resolved: ResolvedSelection


class LayersSelected(Message):
    """What the process found out about the trained layers; it is added to ``resolved``."""

    type: Literal["selected"] = "selected"
    resolved: ResolvedSelection


class EndOfOrder(Message):
    """The base of messages that an order was carried out or not, with the memory that it took."""

    peak: PeakMemory = PeakMemory()


class Fetched(EndOfOrder):
    """Everything is in the cache. ``dataset`` is None for an upload, which is in storage."""

    type: Literal["fetched"] = "fetched"
    model: FetchedModel
    dataset: FetchedDataset | None
    also: tuple[FetchedPreset, ...]


class Finished(EndOfOrder):
    """The job succeeded: its result, and what is added to ``resolved``."""

    type: Literal["result"] = "result"
    result: Json
    resolved: Learned


class Published(EndOfOrder):
    """The model is where the order says; it was there already unless ``created``."""

    type: Literal["published"] = "published"
    location: str
    version: str | None
    created: bool


class ReportedProblem(ProtocolModel):
    """A failure, with the fields of `SurgeryError.as_problem`."""

    type: str
    title: str
    code: str
    detail: str
    retriable: bool
    errors: Annotated[list[Json], Field(max_length=MAX_FAULTS)]


class Failed(EndOfOrder):
    """The job failed; the process can run the next one."""

    type: Literal["error"] = "error"
    problem: ReportedProblem

    @classmethod
    def by(cls, error: SurgeryError) -> Self:
        """The report of this error."""
        return cls(problem=ReportedProblem.model_validate(error.as_problem()))


class Halted(EndOfOrder):
    """The job stopped as ordered. If ``resumable``, it saved a state first."""

    type: Literal["stopped"] = "stopped"
    resumable: bool


ToStore = (
    MetricValues
    | CheckpointSaved
    | StateSaved
    | EventFilesSaved
    | RankingComputed
    | SearchComputed
    | LayersSelected
)
Ending = Fetched | Finished | Published | Failed | Halted
Report = Ready | Probed | PhaseBegun | Progress | ToStore | Ending
REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="type")])


def read_message(kinds: TypeAdapter[AnyMessage], line: str | bytes) -> AnyMessage:
    """Parse a line as a message of one of these classes. Raises ValueError or RecursionError.

    ``json`` parses it, because a name in a stranger's file may contain half of a surrogate pair,
    which pydantic's own parser refuses.
    """
    return kinds.validate_python(json.loads(line))


def read_report(line: bytes) -> Report:
    """Parse a report that shall be stored. Raises ValueError or RecursionError.

    What a stranger's file may contain and a database may refuse is escaped: NULs and half surrogate
    pairs.
    """
    return REPORTS.validate_python(storable_json(json.loads(line)))


class Channel:
    """The pipe to the supervisor; any thread may send."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, report: Message) -> None:
        """Send one message."""
        line = report.line()
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


class JobReporter(Reporter, Protocol):
    """A reporter that can also send any other message to the supervisor."""

    def send(self, report: Message) -> None:
        """Send a message to the supervisor."""

    def check(self) -> None:
        """Raise Stopped if the job should end."""


class ChannelReporter:
    """Reports a run to the supervisor, and stops the run when the supervisor orders it."""

    def __init__(
        self, channel: Channel, scratch: Path, stop: threading.Event, drain: threading.Event
    ):
        self._channel = channel
        self._scratch = scratch
        self._stop, self._drain = stop, drain
        self._sent = 0.0

    def phase(self, name: str) -> None:
        """Report the phase at once."""
        self._sent = 0.0
        self.send(PhaseBegun(name=name))
        note(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Report progress, at most a few times a second. Raises Stopped."""
        self.check()
        now = time.monotonic()
        if now - self._sent < PROGRESS_SECONDS and done != total:
            return
        self._sent = now
        self.send(Progress(step=done, total_steps=total, unit=unit))

    def check(self) -> None:
        """Raise Stopped if the supervisor ordered a stop."""
        if self._stop.is_set():
            raise Stopped(resumable=False)
        if self._drain.is_set():
            raise Stopped(resumable=True)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Report metrics, and write them to the log."""
        self.send(MetricValues(step=step, epoch=round(epoch, 4), values=dict(values)))
        known = [f"{name} {value:.6g}" for name, value in values.items() if value is not None]
        note(f"step {step}: {', '.join(known)}")

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        """Hand a complete folder with a checkpoint to the supervisor."""
        self.send(CheckpointSaved(path=directory, summary=record))

    def state(self, directory: Path, step: int) -> None:
        """Hand a complete folder with a state to the supervisor."""
        self.send(StateSaved(path=directory, step=step))

    def new_folder(self, name: str) -> Path:
        """A path for a new folder inside the attempt's scratch folder."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / name

    def send(self, report: Message) -> None:
        """Send a message to the supervisor."""
        self._channel.send(report)


def note(text: str) -> None:
    """Write a line to the job's log. If the process dies, its error contains the last lines."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)  # noqa: T201


def die_with_parent(parent: int) -> None:
    """Make this process die with its parent.

    Linux kills it when the parent dies. Elsewhere it ends when it reaches the end of its input.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call
        os._exit(1)
