"""What a supervisor and its processes tell each other: JSON lines over two pipes, a class each.

Downwards go orders, upwards reports. What runs a job also runs code of strangers' models, so that
nothing of a report is believed but what its class says. A process dies with its supervisor.
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
from surgery.schemas.resolved import Learned, Resolved, ResolvedFinetune, ResolvedSelection

Json = dict[str, Any]
Folder = Annotated[Path, PlainSerializer(str)]
PROGRESS_SECONDS = 0.25  # between two reports of a step
PR_SET_PDEATHSIG = 1
Kind = TypeVar("Kind")


class Part(BaseModel):
    """A message, or what several messages hold."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Message(Part):
    """Each kind is known by its ``type``."""

    def line(self) -> str:
        """The message as it is sent. Raises ValueError for NaN, which JSON cannot say."""
        return json.dumps(self.model_dump(), allow_nan=False) + "\n"


# What jobs work on.


class FetchedModel(Part):
    """A model of which a checked copy is in the cache; the fields of `ModelSource`."""

    id: str
    origin: str
    revision: str | None
    fingerprint: str
    config: Json
    files: tuple[str, ...]


class FetchedDataset(Part):
    """A dataset in its stored form; without ``metrics`` they follow from its report."""

    folder: Folder
    metrics: tuple[str, ...] | None


class FetchedPreset(Part):
    """A preset to measure on beside the dataset; the fields of `MeasuredSet`."""

    id: str
    folder: Folder
    metrics: tuple[str, ...]
    labels: tuple[str, ...] | None


class JobInputs(Part):
    """What a job reads, all of it on this disk."""

    model: FetchedModel
    dataset: FetchedDataset
    cache: Folder


class SavedCheckpoint(Part):
    """A complete folder with a checkpoint, and what its run tells of it."""

    path: Folder
    summary: CheckpointSummary


class PrefixRoom(Part):
    """What the operator lets a frozen prefix take."""

    folder: Folder
    memory_bytes: int | None
    disk_bytes: int | None


# Orders, from the supervisor.


class WorkOrder(Message):
    """Something to do; ``scratch`` is the attempt's own folder."""

    spec: Json
    scratch: Folder


class FetchOrder(WorkOrder):
    """Lay a job's model, dataset and presets ready."""

    type: Literal["fetch"] = "fetch"
    resolved: Resolved
    mirrors: tuple[Folder, ...]
    cache: Folder
    offline: bool


class RankingOrder(WorkOrder):
    """Rank."""

    type: Literal["ranking"] = "ranking"
    inputs: JobInputs
    cpu_seconds: float

    @property
    def batching(self) -> Json:
        """The options that hold ``batch_size`` and ``max_length``."""
        return self.spec


class FinetuneOrder(WorkOrder):
    """Fine-tune, on from a state where there is one.

    ``ranking`` is the result of the ranking that the job waited for.
    """

    type: Literal["finetune"] = "finetune"
    id: str
    resolved: ResolvedFinetune
    inputs: JobInputs
    cpu_seconds: float
    also: tuple[FetchedPreset, ...]
    ranking: Json | None
    continue_folder: Folder | None
    state_folder: Folder | None
    earlier_best: SavedCheckpoint | None
    room: PrefixRoom

    @property
    def batching(self) -> Json:
        """The options that hold ``batch_size`` and ``max_length``."""
        options: Json = self.spec["training"]
        return options


class Cancel(Message):
    """Stop within a step, for good."""

    type: Literal["cancel"] = "cancel"


class Drain(Message):
    """Stop within a step and leave a state to go on from."""

    type: Literal["drain"] = "drain"


JobOrder = RankingOrder | FinetuneOrder
FETCHER_ORDERS: TypeAdapter[FetchOrder | Cancel | Drain] = TypeAdapter(
    Annotated[FetchOrder | Cancel | Drain, Field(discriminator="type")]
)
CHILD_ORDERS: TypeAdapter[JobOrder | Cancel | Drain] = TypeAdapter(
    Annotated[JobOrder | Cancel | Drain, Field(discriminator="type")]
)


# Reports, from a process.


class Ready(Message):
    """The process has started."""

    type: Literal["ready"] = "ready"


class PhaseBegun(Message):
    """A part of the run begins: load, warmup, score, train …"""

    type: Literal["phase"] = "phase"
    name: str


class Progress(Message):
    """How far the phase is."""

    type: Literal["progress"] = "progress"
    percent: float | None
    step: int
    total_steps: int | None
    unit: str
    eta_seconds: float | None


class MetricValues(Message):
    """Numbers measured at an optimizer step."""

    type: Literal["metric"] = "metric"
    step: int
    epoch: float
    values: dict[str, float | None]


class CheckpointSaved(Message, SavedCheckpoint):
    """A checkpoint to store."""

    type: Literal["checkpoint"] = "checkpoint"


class StateSaved(Message):
    """A complete folder to resume from."""

    type: Literal["state"] = "state"
    path: Folder
    step: int


class EventFilesSaved(Message):
    """A complete folder with TensorBoard's files so far."""

    type: Literal["log"] = "log"
    path: Folder


class RankingComputed(Message):
    """The ranking by which a fine-tune chose its layers, and what it chose."""

    type: Literal["ranking"] = "ranking"
    options: Json
    result: Json
    resolved: ResolvedSelection


class LayersSelected(Message):
    """What trains, as only the process could know it, to be added to ``resolved``."""

    type: Literal["selected"] = "selected"
    resolved: ResolvedSelection


class Fetched(Message):
    """Everything is laid ready. An upload is no ``dataset`` of these: the supervisor has it."""

    type: Literal["fetched"] = "fetched"
    model: FetchedModel
    dataset: FetchedDataset | None
    also: tuple[FetchedPreset, ...]


class Finished(Message):
    """The job's result, and what it adds to ``resolved``."""

    type: Literal["result"] = "result"
    result: Json
    resolved: Learned


class Problem(Part):
    """A failure as `SurgeryError.as_problem` describes it."""

    type: str
    title: str
    code: str
    detail: str
    retriable: bool
    errors: Annotated[list[Json], Field(max_length=MAX_FAULTS)]


class Failed(Message):
    """The job failed; the process is fine."""

    type: Literal["error"] = "error"
    problem: Problem

    @classmethod
    def by(cls, error: SurgeryError) -> Self:
        """The failure that an error describes."""
        return cls(problem=Problem.model_validate(error.as_problem()))


class Halted(Message):
    """The job stopped as it was told to; ``resumable``: it left a state."""

    type: Literal["stopped"] = "stopped"
    resumable: bool


ToStore = (
    MetricValues | CheckpointSaved | StateSaved | EventFilesSaved | RankingComputed | LayersSelected
)
Ending = Fetched | Finished | Failed | Halted
Report = Ready | PhaseBegun | Progress | ToStore | Ending
REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="type")])


def read_message(kinds: TypeAdapter[Kind], line: str | bytes) -> Kind:
    """A line as a message of one of these kinds. Raises ValueError or RecursionError.

    A name in a stranger's file may hold half of a character, which pydantic's parser refuses.
    """
    return kinds.validate_python(json.loads(line))


class Channel:
    """The pipe to the supervisor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, report: Message) -> None:
        """One message."""
        line = report.line()
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


class JobReporter(Reporter, Protocol):
    """A reporter that also carries a runner's own messages."""

    def tell(self, report: Message) -> None:
        """A message to the supervisor."""

    def check(self) -> None:
        """Raise Stopped when the job should end."""


class ChannelReporter:
    """Reports a run to the supervisor, and stops it when the supervisor says so."""

    def __init__(
        self, channel: Channel, scratch: Path, stop: threading.Event, drain: threading.Event
    ):
        self._channel = channel
        self._scratch = scratch
        self._stop, self._drain = stop, drain
        self._sent = self._began = 0.0

    def phase(self, name: str) -> None:
        """Always told at once."""
        self._began, self._sent = time.monotonic(), 0.0
        self.tell(PhaseBegun(name=name))
        note(name)

    def step(self, done: int, total: int | None, unit: str) -> None:
        """Told a few times a second; raises Stopped."""
        self.check()
        now = time.monotonic()
        if now - self._sent < PROGRESS_SECONDS and done != total:
            return
        self._sent = now
        spent = now - self._began
        self.tell(
            Progress(
                percent=round(100 * done / total, 1) if total else None,
                step=done,
                total_steps=total,
                unit=unit,
                eta_seconds=round(spent / done * (total - done), 1) if total and done else None,
            )
        )

    def check(self) -> None:
        """Raise Stopped when the supervisor asked for it."""
        if self._stop.is_set():
            raise Stopped(resumable=False)
        if self._drain.is_set():
            raise Stopped(resumable=True)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        """Numbers for the metrics table."""
        self.tell(MetricValues(step=step, epoch=round(epoch, 4), values=dict(values)))
        known = [f"{name} {value:.6g}" for name, value in values.items() if value is not None]
        note(f"step {step}: {', '.join(known)}")

    def checkpoint(self, directory: Path, record: CheckpointSummary) -> None:
        """A complete folder for the supervisor to store."""
        self.tell(CheckpointSaved(path=directory, summary=record))

    def state(self, directory: Path, step: int) -> None:
        """A complete folder to resume from."""
        self.tell(StateSaved(path=directory, step=step))

    def new_folder(self, name: str) -> Path:
        """Inside this attempt's own scratch folder."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / name

    def tell(self, report: Message) -> None:
        """A message of a runner's own."""
        self._channel.send(report)


def note(text: str) -> None:
    """A line of the job's log, whose last ones are kept where the process is lost."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)  # noqa: T201


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its supervisor dies; elsewhere, end of input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)
