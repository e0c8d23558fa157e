"""What the command line shows people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from surgeon.terminal.tables import comparison_view, ranking_view

Json = dict[str, Any]
console = Console()
errors = Console(stderr=True)


def show_json(value: object) -> None:
    """For machines: one document on standard output."""
    console.out(json.dumps(value, indent=2), highlight=False)


def show_ranking(job: Mapping[str, Any]) -> None:
    """The layers, best first, and how far the ranking can be trusted."""
    console.print(ranking_view(job["result"], _what(job)))


def _what(job: Mapping[str, Any]) -> str:
    return f"{job['resolved']['model']['id']} on {job['resolved']['dataset']['id']}"


def show_finetune(job: Mapping[str, Any]) -> None:
    """What was trained and reached."""
    result = job["result"]
    table = Table(title=_what(job), title_justify="left", box=SIMPLE, pad_edge=False)
    names = list(result["best"]["metrics"])
    tracked = result["ranking_at_start"] is not None
    for name in ("epoch", "step", "train loss", *names, *["τ to start"] * tracked):
        table.add_column(name, justify="right")
    for report in result["epochs"]:
        values = [report["train_loss"], *(report["metrics"][name] for name in names)]
        if tracked:
            values.append(report["ranking"]["kendall_tau"])
        best = " *" if report["epoch"] == result["best"]["epoch"] else ""
        table.add_row(f"{report['epoch']:g}{best}", str(report["step"]), *map(_number, values))
    console.print(table)
    layers = ", ".join(result["trained_layers"]) or "the head alone"
    share = result["trainable_parameters"] / result["total_parameters"]
    console.print(
        f"trained {layers}: {result['trainable_parameters']:,} of {result['total_parameters']:,} "
        f"parameters ({share:.1%}), {result['seconds']['train']:.1f} s; best checkpoint "
        f"{result['best_checkpoint']} (*)"
    )
    for preset, values in result["best"]["also"].items():
        told = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
        console.print(f"on {preset}: {told}")
    if tracked:
        console.print(f"ranking at the start: {_order(result['ranking_at_start'])}")
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def _order(scores: Mapping[str, float]) -> str:
    """Names, best first."""
    return ", ".join(sorted(scores, key=lambda name: -scores[name]))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def show_jobs(jobs: Sequence[Mapping[str, Any]]) -> None:
    """A line a job."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("id", "status", "what", "created"):
        table.add_column(name, no_wrap=name in {"id", "status"})
    for job in jobs:
        percent = (job["progress"] or {}).get("percent")
        running = f" ({job['phase']} {percent or 0:.0f} %)" if job["phase"] else ""
        created = job["created_at"][:19].replace("T", " ")
        table.add_row(job["id"], job["status"] + running, _what(job), created)
    console.print(table if jobs else "no jobs")


def show_comparison(job: Mapping[str, Any]) -> None:
    """The arms side by side."""
    console.print(comparison_view(job["result"], _what(job)))


SHOWN = {"ranking": show_ranking, "finetune": show_finetune, "comparison": show_comparison}


def show_result(job: Mapping[str, Any]) -> None:
    """The outcome of a finished job, or its error."""
    if job["status"] == "succeeded":
        SHOWN[job["kind"]](job)
        return
    error = job["error"] or {"code": job["status"], "detail": "stopped on request"}
    errors.print(f"{job['id']} {job['status']}: {error['detail']} ({error['code']})", style="red")
    for line in error.get("log", [])[-10:]:
        errors.print(f"  {line}", markup=False, highlight=False)


def progress_bar() -> tuple[Progress, Callable[[Mapping[str, Any]], None]]:
    """A bar, and what to call with every state of a job."""
    bar = Progress(
        TextColumn("{task.fields[job]}"), TextColumn("{task.description:<10}"), BarColumn(),
        TaskProgressColumn(), TextColumn("{task.fields[unit]}"), TimeRemainingColumn(),
        console=errors,
    )  # fmt: skip
    task = bar.add_task("queued", total=100, job="", unit="")

    def seen(job: Mapping[str, Any]) -> None:
        progress = job["progress"] or {}
        step, total, unit = (progress.get(key) for key in ("step", "total_steps", "unit"))
        counted = f"{step}/{total} {unit}" if step is not None and total else ""
        bar.update(
            task, description=job["phase"] or job["status"], completed=progress.get("percent") or 0,
            job=job["id"], unit=counted,
        )  # fmt: skip

    return bar, seen
