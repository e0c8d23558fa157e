"""Shows the progress of the demo's jobs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from surgeon.terminal.terminal import say

Json = Mapping[str, Any]


def arms_progress(
    screen: Console, names: Sequence[str]
) -> tuple[AbstractContextManager[Any], Callable[[str, Json], None]]:
    """A display of all arms, and the function to call with an arm's name and state of its job."""
    return arm_bars(screen, names) if screen.is_terminal else (nullcontext(), arm_lines(say))


def arm_bars(
    console: Console, names: Sequence[str]
) -> tuple[Progress, Callable[[str, Json], None]]:
    """One bar for each arm, and the function to call with an arm's name and state of its job."""
    arm, phase, steps = "{task.fields[arm]:<15}", "{task.description:<9}", "{task.fields[steps]}"
    bars = Progress(
        *(TextColumn(arm), TextColumn(phase), BarColumn(24), TaskProgressColumn()),
        *(TextColumn(steps), TimeElapsedColumn()),
        console=console,
    )
    tasks = {
        name: bars.add_task("queued", total=100, arm=name, steps="", start=False) for name in names
    }

    def on_update(name: str, job: Json) -> None:
        task, progress = tasks[name], job["progress"] or {}
        if job["status"] == "running":
            bars.start_task(task)
        if progress.get("unit") == "steps":
            step, total = progress["step"], progress["total_steps"]
            bars.update(task, completed=100 * step / total, steps=f"{step}/{total}")
        phase = None if job["terminal"] else job["phase"]
        bars.update(task, description=phase or job["status"])
        if job["terminal"]:
            if job["status"] == "succeeded":  # the last steps may have passed between two polls
                bars.update(task, completed=100)
            bars.stop_task(task)

    return bars, on_update


def arm_lines(say: Callable[[str], None]) -> Callable[[str, Json], None]:
    """A function to call with an arm's name and state; it prints the job's start and end.

    A job that two arms share is printed under the name that comes first.
    """
    printed: dict[str, str] = {}
    names: dict[str, str] = {}

    def on_update(name: str, job: Json) -> None:
        name, state = names.setdefault(job["id"], name), job["status"]
        if state == "queued" or printed.get(job["id"]) == state:
            return
        printed[job["id"]] = state
        result = job["result"]
        if not job["terminal"]:
            say(f"  {name}: started")
        elif result:
            metric = result["primary_metric"]
            value = f"{metric} {result['best']['metrics'][metric]:.3f}"
            say(f"  {name}: finished in {result['seconds']['total']:.0f} s, {value}")
        else:
            say(f"  {name}: {state}")

    return on_update
