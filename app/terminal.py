"""What the command line shows people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

Json = dict[str, Any]
console = Console()
errors = Console(stderr=True)
BAR_WIDTH = 12  # the table fits 80 columns


def show_json(value: object) -> None:
    """For machines: one document on standard output."""
    console.out(json.dumps(value, indent=2), highlight=False)


def show_ranking(job: Mapping[str, Any]) -> None:
    """The layers, best first, with bars and intervals."""
    result = job["result"]
    title = f"{job['resolved']['model']['id']} on {job['resolved']['dataset']['id']}"
    table = Table(
        title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("layer", no_wrap=True)
    for name in ("score", "95 % interval", "share", "P(top 2)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    top = max((layer["score"] for layer in result["layers"]), default=0.0) or 1.0
    for layer in result["layers"]:
        table.add_row(*_ranking_row(layer, top))
    console.print(table)
    console.print(_ranking_note(result))


def _ranking_row(layer: Mapping[str, Any], top: float) -> list[str]:
    interval = f"{layer['ci'][0]:.3g} – {layer['ci'][1]:.3g}" if layer["ci"] else "–"
    probability = f"{layer['p_top_k']['2']:.2f}" if layer["p_top_k"] else "–"
    bar = "█" * max(1, round(BAR_WIDTH * layer["score"] / top))
    return [
        str(layer["rank"]), layer["name"], f"{layer['score']:.3g}", interval,
        f"{layer['share']:.1%}", probability, bar,
    ]  # fmt: skip


def _ranking_note(result: Mapping[str, Any]) -> str:
    stability = result["stability"]
    parts = [f"{result['samples']} samples, {result['method']} {result['aggregate']}"]
    if stability["split_half_kendall_tau"] is not None:
        parts.append(f"split-half Kendall τ {stability['split_half_kendall_tau']:.2f}")
    if stability["ambiguous_k"]:
        parts.append(f"uncertain at k = {', '.join(map(str, stability['ambiguous_k']))}")
    recommended = result["recommended_k"]
    parts.append(f"recommended k = {recommended['k']} ({recommended['reason']})")
    notes = [f"warning: {warning}" for warning in result["warnings"]]
    return "\n".join(["; ".join(parts), *notes])


def show_finetune(job: Mapping[str, Any]) -> None:
    """What was trained and reached."""
    result = job["result"]
    table = Table(title=f"{job['resolved']['model']['id']} on {job['resolved']['dataset']['id']}",
                  title_justify="left", box=SIMPLE, pad_edge=False)  # fmt: skip
    table.add_column("epoch", justify="right")
    table.add_column("step", justify="right")
    table.add_column("train loss", justify="right")
    names = list(result["best"]["metrics"])
    for name in names:
        table.add_column(name, justify="right")
    for report in result["epochs"]:
        loss = "–" if report["train_loss"] is None else f"{report['train_loss']:.4f}"
        values = [_number(report["metrics"][name]) for name in names]
        best = " *" if report["epoch"] == result["best"]["epoch"] else ""
        table.add_row(f"{report['epoch']}{best}", str(report["step"]), loss, *values)
    console.print(table)
    layers = ", ".join(result["trained_layers"]) or "the head alone"
    share = result["trainable_parameters"] / result["total_parameters"]
    console.print(
        f"trained {layers}: {result['trainable_parameters']:,} of {result['total_parameters']:,} "
        f"parameters ({share:.1%}), {result['seconds']['train']:.1f} s; best checkpoint "
        f"{result['best_checkpoint']} (*)"
    )


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
        what = f"{job['resolved']['model']['id']} on {job['resolved']['dataset']['id']}"
        created = job["created_at"][:19].replace("T", " ")
        table.add_row(job["id"], job["status"] + running, what, created)
    console.print(table if jobs else "no jobs")


def show_result(job: Mapping[str, Any]) -> None:
    """The outcome of a finished job, or its error."""
    if job["status"] == "succeeded":
        (show_ranking if job["kind"] == "ranking" else show_finetune)(job)
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
