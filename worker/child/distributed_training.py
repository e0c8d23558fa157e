"""What each process of a distributed fine-tune does: all train, the first one reports."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from pathlib import Path

import torch
from accelerate import PartialState
from pydantic import TypeAdapter

from surgery.errors import SurgeryError
from surgery.io.reporter import Quiet, Stopped
from surgery.models.memory import job_peaks
from worker.child.distributed import DOWN, ORDER, UP, ProcessFailed
from worker.child.failures import unexpected
from worker.child.finetune import train
from worker.child.process import Child
from worker.protocol import (
    Cancel,
    Channel,
    Drain,
    Failed,
    FinetuneOrder,
    Finished,
    JobReporter,
    Message,
)

ORDERS: TypeAdapter[FinetuneOrder | Cancel | Drain] = TypeAdapter(FinetuneOrder | Cancel | Drain)


def main() -> None:
    """Train as one of the job's processes; the first of them reports to the job's process."""
    folder = Path(sys.argv[1])
    order = FinetuneOrder.model_validate(json.loads((folder / ORDER).read_text()))
    rank = PartialState(cpu=not torch.cuda.is_available()).process_index
    if rank == 0:
        with (folder / UP).open("w", encoding="utf-8") as stream:
            child = Child(Channel(stream), ORDERS, _train, unexpected, job_peaks)
            orders = (folder / DOWN).open(encoding="utf-8")
            threading.Thread(target=child.listen, args=(orders,), daemon=True).start()
            child.run(order)
        return
    try:
        _train(order, SilentReporter(folder / str(rank)))
    except (Stopped, ProcessFailed):
        return
    except Exception as error:  # whatever it is, it becomes the job's error
        reported = error if isinstance(error, SurgeryError) else unexpected(error, order)
        building = folder / f"building-{rank}"
        building.write_text(Failed.by(reported).problem.model_dump_json())
        building.rename(folder / f"error-{rank}.json")  # so that no reader sees half of it
        raise


def _train(order: FinetuneOrder, report: JobReporter) -> Finished:
    """Train. Raises ProcessFailed if the only fault here is that another process has ended."""
    try:
        return train(order, report)
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            traceback.print_exc()  # goes to the job's log
            raise ProcessFailed(lost=str(error)) from error
        raise


class SilentReporter(Quiet):
    """The reporter of every process but the first: it reports nothing."""

    def send(self, report: Message) -> None:
        """Drop the message."""

    def check(self) -> None:
        """Do nothing: the first process learns of a stop and tells the others."""
