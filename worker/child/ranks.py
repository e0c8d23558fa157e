"""One fine-tune on several devices of this machine, by accelerate's launcher.

The job's process starts the launcher and passes messages on; the launcher starts one process a
device (`worker.child.rank_process`), of which the first one speaks for all. Two named pipes carry
JSON lines: ``up`` what it reports, ``down`` that it should stop.
"""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from surgery.errors import SurgeryError
from surgery.io.reporter import Stopped
from surgery.training.devices import check_processes
from surgery.training.prefix_cache.store import release_memory
from worker.protocol import (
    REPORTS,
    Cancel,
    Drain,
    Failed,
    FinetuneOrder,
    Finished,
    Halted,
    JobReporter,
    Problem,
    Report,
    read_message,
)

UP, DOWN, ORDER = "up", "down", "order.json"
LOOK_SECONDS = 0.5  # between two looks whether the job should stop


class RanksFailed(SurgeryError):
    """A process of several ended."""

    code = "internal"

    def __init__(self, problem: Problem | None = None, lost: str = "") -> None:
        heard = f" ({lost.strip()[:300]})" if lost else ""
        super().__init__(
            f"one of the job's processes ended without a word, or could not be reached{heard}; "
            "the machine may have run out of memory"
        )
        self.problem = problem

    def as_problem(self) -> dict[str, Any]:
        """What the process itself said, if it did."""
        return self.problem.model_dump() if self.problem else super().as_problem()


def launch(order: FinetuneOrder, processes: int, report: JobReporter) -> Finished:
    """Run a fine-tune that many times at once.

    Raises Stopped, or RanksFailed with the problem that a process met.
    """
    check_processes(processes, torch.cuda.device_count())
    _leave_the_gpu()
    folder = order.scratch / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ORDER).write_text(order.line())
    for name in (UP, DOWN):
        os.mkfifo(folder / name)
    # Opened both ways, a pipe waits for nobody: a process that never comes cannot hang the job.
    up, down = (os.open(folder / name, os.O_RDWR | os.O_NONBLOCK) for name in (UP, DOWN))
    running = subprocess.Popen(_command(folder, processes), stdin=subprocess.DEVNULL)
    try:
        return _followed(running, up, down, report)
    except RanksFailed as failed:
        raise RanksFailed(_cause(failed.problem, folder)) from None
    finally:
        running.kill()
        running.wait()
        os.close(up)
        os.close(down)


def _leave_the_gpu() -> None:
    """What this process still holds of a ranking or an earlier job is the first process's room."""
    release_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _command(folder: Path, processes: int) -> list[str]:
    # Its launcher for several GPUs is torchrun, which serves cores as well; its own for CPUs
    # needs MPI.
    return [
        sys.executable, "-m", "worker.child.launcher", str(os.getpid()), "--multi_gpu",
        "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_port", "0", "--module",
        "worker.child.rank_process", str(folder),
    ]  # fmt: skip


def _followed(
    running: subprocess.Popen[bytes], up: int, down: int, report: JobReporter
) -> Finished:
    told = False
    for message in _messages(running, up):
        match message:
            case Finished():
                return message
            case Halted():
                raise Stopped(resumable=message.resumable)
            case Failed():
                raise RanksFailed(message.problem)
            case None:
                pass
            case _:
                report.tell(message)
        told = told or _pass_on_stop(report, down)
    raise RanksFailed


def _messages(running: subprocess.Popen[bytes], up: int) -> Iterator[Report | None]:
    """What the first process says, None now and then; ends when the launcher has."""
    rest = b""
    while True:
        ended = running.poll() is not None
        if select.select([up], [], [], 0 if ended else LOOK_SECONDS)[0]:
            *lines, rest = (rest + os.read(up, 65536)).split(b"\n")
            yield from (read_message(REPORTS, line) for line in lines)
        elif ended:
            return
        yield None


def _pass_on_stop(report: JobReporter, down: int) -> bool:
    try:
        report.check()
    except Stopped as stop:
        order = Drain() if stop.resumable else Cancel()
        os.write(down, order.line().encode())
        return True
    return False


def _cause(told: Problem | None, folder: Path) -> Problem | None:
    """The first process's error; where it only lost another one, what that wrote down."""
    if told is not None and told.code != RanksFailed.code:
        return told
    written = min(folder.glob("error-*.json"), default=None)
    return told if written is None else Problem.model_validate_json(written.read_text())
