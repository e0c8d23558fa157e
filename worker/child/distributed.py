"""Runs one fine-tune on several devices of this machine, with accelerate's launcher.

The job's process starts the launcher, and the launcher starts one process for each device
(`worker.child.distributed_process`). The first of these reports for all of them. Two named pipes
carry JSON lines: ``up`` carries its reports, which the job's process passes on to the supervisor,
and ``down`` carries the order to stop.
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
from surgery.training.costs.devices import check_processes
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
    Report,
    ReportedProblem,
    read_message,
)

UP, DOWN, ORDER = "up", "down", "order.json"
POLL_SECONDS = 0.5  # between two checks whether the job should stop


class ProcessFailed(SurgeryError):
    """One of the processes of a distributed job failed."""

    code = "internal"

    def __init__(self, problem: ReportedProblem | None = None, lost: str = "") -> None:
        detail = f" ({lost.strip()[:300]})" if lost else ""
        super().__init__(
            f"one of the job's processes ended without a word, or could not be reached{detail}; "
            "the machine may have run out of memory"
        )
        self.problem = problem

    def as_problem(self) -> dict[str, Any]:
        """The problem that the process itself reported, if it did."""
        return self.problem.model_dump() if self.problem else super().as_problem()


def launch(order: FinetuneOrder, processes: int, report: JobReporter) -> Finished:
    """Run a fine-tune on this many processes.

    Raises Stopped, or ProcessFailed with the problem that a process reported.
    """
    check_processes(processes, torch.cuda.device_count())
    _free_gpu_memory()
    folder = order.scratch / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ORDER).write_text(order.line())
    for name in (UP, DOWN):
        os.mkfifo(folder / name)
    # A pipe that is opened for both directions does not block, even if no process ever opens
    # its other end.
    up, down = (os.open(folder / name, os.O_RDWR | os.O_NONBLOCK) for name in (UP, DOWN))
    running = subprocess.Popen(_command(folder, processes), stdin=subprocess.DEVNULL)
    try:
        return _followed(running, up, down, report)
    except ProcessFailed as failed:
        raise ProcessFailed(_cause(failed.problem, folder)) from None
    finally:
        running.kill()
        running.wait()
        os.close(up)
        os.close(down)


def _free_gpu_memory() -> None:
    """Free what this process still holds of earlier work; its GPU is the first process's too."""
    release_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _command(folder: Path, processes: int) -> list[str]:
    # With --multi_gpu accelerate uses torchrun, which works on CPUs as well; its launcher for CPUs
    # needs MPI.
    return [
        *(sys.executable, "-m", "worker.child.launcher", str(os.getpid()), "--multi_gpu"),
        *("--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--module", "worker.child.distributed_process", str(folder)),
    ]


def _followed(
    running: subprocess.Popen[bytes], up: int, down: int, report: JobReporter
) -> Finished:
    stop_sent = False
    for message in _messages(running, up):
        match message:
            case Finished():
                return message
            case Halted():
                raise Stopped(resumable=message.resumable)
            case Failed():
                raise ProcessFailed(message.problem)
            case None:
                pass
            case _:
                report.send(message)
        stop_sent = stop_sent or _pass_on_stop(report, down)
    raise ProcessFailed


def _messages(running: subprocess.Popen[bytes], up: int) -> Iterator[Report | None]:
    """The reports of the first process, and None at each pause; ends when the launcher ends."""
    rest = b""
    while True:
        ended = running.poll() is not None
        if select.select([up], [], [], 0 if ended else POLL_SECONDS)[0]:
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


def _cause(reported: ReportedProblem | None, folder: Path) -> ReportedProblem | None:
    """The first process's error, or if it only lost another process, the error of that one."""
    if reported is not None and reported.code != ProcessFailed.code:
        return reported
    written = min(folder.glob("error-*.json"), default=None)
    return reported if written is None else ReportedProblem.model_validate_json(written.read_text())
