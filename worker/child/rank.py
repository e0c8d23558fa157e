"""What each process of a fine-tune on several devices does: train, the first one speaks for all."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from surgery.errors import SurgeryError
from surgery.io.reporter import Quiet, Stopped
from worker.child.failures import unexpected
from worker.child.finetune import train
from worker.child.process import Child
from worker.child.ranks import DOWN, ORDER, UP, Json, RanksFailed
from worker.protocol import Channel, JobReporter


def main() -> None:
    """One of the processes: train, and speak if it is the first."""
    folder = Path(sys.argv[1])
    message = json.loads((folder / ORDER).read_text())
    rank = PartialState(cpu=not torch.cuda.is_available()).process_index
    if rank == 0:
        with (folder / UP).open("w", encoding="utf-8") as stream:
            child = Child(Channel(stream), {}, unexpected)
            orders = (folder / DOWN).open(encoding="utf-8")
            threading.Thread(target=child.listen, args=(orders,), daemon=True).start()
            child.run(_train, message)
        return
    try:
        _train(message, Silent(folder / str(rank)))
    except (Stopped, RanksFailed):
        return
    except Exception as error:  # whatever it is, the job's error is to be this
        own = error.as_problem() if isinstance(error, SurgeryError) else None
        problem = own or unexpected(error, message)
        building = folder / f"building-{rank}"
        building.write_text(json.dumps(problem))
        building.rename(folder / f"error-{rank}.json")  # seen whole or not at all
        raise


def _train(message: Json, report: JobReporter) -> tuple[Json, Json]:
    """Raises RanksFailed where all that went wrong here is that another process is gone."""
    try:
        return train(message, report)
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            traceback.print_exc()  # into the job's log
            raise RanksFailed(lost=str(error)) from error
        raise


class Silent(Quiet):
    """Of the processes that say nothing."""

    def tell(self, kind: str, **data: Any) -> None:
        """Nobody listens."""

    def check(self) -> None:
        """The first process hears it and tells all."""
