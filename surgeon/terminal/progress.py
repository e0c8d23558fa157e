"""Shows how far jobs and transfers are: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.filesize import decimal

from surgeon.terminal.terminal import errors

# rich.progress is imported only when a bar is shown, so that other commands start faster.

Json = Mapping[str, Any]
LINE_PERCENT = 10  # between two lines about the same phase


@contextmanager
def job_progress() -> Iterator[Callable[[Json], None]]:
    """The function to call with every state of a job."""
    if not errors.is_terminal:
        yield job_lines(_say)
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    name, phase, unit = "{task.fields[job]}", "{task.description:<10}", "{task.fields[unit]}"
    bar = Progress(
        *(TextColumn(name), TextColumn(phase), BarColumn(), TaskProgressColumn()),
        *(TextColumn(unit), TimeRemainingColumn()),
        console=errors,
    )
    task = bar.add_task("queued", total=100, job="", unit="")

    def on_update(job: Json) -> None:
        bar.update(
            task,
            description=job["phase"] or job["status"],
            completed=(job["progress"] or {}).get("percent") or 0,
            job=job["id"],
            unit=_counted(job),
        )

    with bar:
        yield on_update


def _counted(job: Json) -> str:
    progress = job["progress"] or {}
    step, total, unit = (progress.get(key) for key in ("step", "total_steps", "unit"))
    return f"{step}/{total} {unit}" if step is not None and total else ""


def job_lines(say: Callable[[str], None]) -> Callable[[Json], None]:
    """The function to call with every state of a job: a line for each phase and tenth of it."""
    printed: tuple[object, ...] = ()

    def on_update(job: Json) -> None:
        nonlocal printed
        state = job["status"] if job["terminal"] else job["phase"] or job["status"]
        percent = (job["progress"] or {}).get("percent") if job["status"] == "running" else None
        place = (job["id"], state, None if percent is None else percent // LINE_PERCENT)
        if place == printed:
            return
        printed = place
        parts = [] if percent is None else [f"{percent:.0f} %", _counted(job)]
        say(" ".join([f"{job['id']}: {state}", *filter(None, parts)]))

    return on_update


@contextmanager
def transfer_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """The function to call with the bytes moved so far and their total."""
    if not errors.is_terminal:
        yield transfer_lines(name, _say)
        return
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=errors)
    task = bar.add_task(name, total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


def transfer_lines(name: str, say: Callable[[str], None]) -> Callable[[int, int], None]:
    """The function to call with the bytes moved so far and their total: a line each tenth."""
    printed = -1

    def on_update(done: int, total: int) -> None:
        nonlocal printed
        percent = 100 * done // total if total else 100
        if percent // LINE_PERCENT > printed:
            printed = percent // LINE_PERCENT
            say(f"{name}: {percent} % of {decimal(total)}")

    return on_update


def _say(line: str) -> None:
    errors.print(line, markup=False, highlight=False, soft_wrap=True)
