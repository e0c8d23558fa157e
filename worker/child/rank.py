"""What each process of a fine-tune on several devices does: train, the first one speaks for all."""

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
from worker.child.failures import unexpected
from worker.child.finetune import train
from worker.child.process import Child
from worker.child.ranks import DOWN, ORDER, UP, RanksFailed
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
    """One of the processes: train, and speak if it is the first."""
    folder = Path(sys.argv[1])
    order = FinetuneOrder.model_validate(json.loads((folder / ORDER).read_text()))
    rank = PartialState(cpu=not torch.cuda.is_available()).process_index
    if rank == 0:
        with (folder / UP).open("w", encoding="utf-8") as stream:
            child = Child(Channel(stream), ORDERS, _train, unexpected)
            orders = (folder / DOWN).open(encoding="utf-8")
            threading.Thread(target=child.listen, args=(orders,), daemon=True).start()
            child.run(order)
        return
    try:
        _train(order, Silent(folder / str(rank)))
    except (Stopped, RanksFailed):
        return
    except Exception as error:  # whatever it is, the job's error is to be this
        told = error if isinstance(error, SurgeryError) else unexpected(error, order)
        building = folder / f"building-{rank}"
        building.write_text(Failed.by(told).problem.model_dump_json())
        building.rename(folder / f"error-{rank}.json")  # seen whole or not at all
        raise


def _train(order: FinetuneOrder, report: JobReporter) -> Finished:
    """Raises RanksFailed where all that went wrong here is that another process is gone."""
    try:
        return train(order, report)
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            traceback.print_exc()  # into the job's log
            raise RanksFailed(lost=str(error)) from error
        raise


class Silent(Quiet):
    """Of the processes that say nothing."""

    def tell(self, report: Message) -> None:
        """Nobody listens."""

    def check(self) -> None:
        """The first process hears it and tells all."""
