"""Shows jobs and fine-tunes as tables, and sets the style of all tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from surgeon.terminal.remedies import warning_lines

Json = Mapping[str, Any]
DASH = "–"
LONG_NAME = 12  # characters


def wide_table(title: str = "") -> Table:
    """A table with few columns."""
    return Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)


def narrow_table(title: str) -> Table:
    """A table with many columns, one blank apart."""
    table = wide_table(title)
    table.padding = (0, 1, 0, 0)
    return table


def subject_of(job: Json) -> str:
    """The model and the dataset of a job."""
    return f"{job['resolved']['model']['id']} on {job['resolved']['dataset']['id']}"


def jobs_table(jobs: Sequence[Json]) -> Table:
    """One row for each job."""
    table = wide_table()
    for name in ("id", "status", "what", "created"):
        table.add_column(name, no_wrap=name in {"id", "status"})
    for job in jobs:
        percent = (job["progress"] or {}).get("percent")
        running = f" ({job['phase']} {percent or 0:.0f} %)" if job["phase"] else ""
        created = job["created_at"][:19].replace("T", " ")
        table.add_row(job["id"], job["status"] + running, subject_of(job), created)
    return table


def workers_table(workers: Sequence[Json]) -> Table:
    """One row for each worker."""
    table = wide_table()
    for name in ("id", "state", "kinds", "devices", "precisions", "processes", "last heard of"):
        table.add_column(name, no_wrap=name in {"id", "state"})
    for each in workers:
        ended = "stopped" if each["stopped_at"] else "lost"
        state = ("busy" if each["busy"] else "idle") if each["alive"] else ended
        table.add_row(
            each["id"],
            state,
            ", ".join(each["kinds"]),
            ", ".join(device["name"] for device in each["devices"]),
            ", ".join(each["precisions"]),
            str(each["max_processes"]),
            each["heartbeat_at"][:19].replace("T", " "),
        )
    return table


def queue_table(answer: Json) -> Table:
    """One row for each kind of job; numbers of the own project, and in brackets of all."""
    table = wide_table()
    for name in ("kind", "queued", "running", "paused", "workers", "idle", "expected wait"):
        table.add_column(name, no_wrap=True)
    for kind, of in answer["kinds"].items():
        counts = (
            f"{of['project'][state]} ({of['all'][state]})"
            for state in ("queued", "running", "paused")
        )
        wait = of["expected_wait_seconds"]
        shown = DASH if wait is None else f"{wait:g} s"
        table.add_row(kind, *counts, str(of["workers_alive"]), str(of["workers_idle"]), shown)
    return table


def finetune_view(result: Json, title: str) -> Group:
    """The evaluations of a fine-tune, and notes on what was trained."""
    return Group(_epochs_table(result, title), *_finetune_notes(result), *warning_lines(result))


def _epochs_table(result: Json, title: str) -> Table:
    """One row for each evaluation, the best with a star, and one for a constant prediction."""
    table = narrow_table(title)
    names = list(result["best"]["metrics"])
    tracked = result["ranking_at_start"] is not None
    for name in ("epoch", "step", "train loss", *names, *["τ to start"] * tracked):
        table.add_column(_in_two_lines(name), justify="right")
    for report in result["epochs"]:
        values = [report["train_loss"], *(report["metrics"][name] for name in names)]
        if tracked:
            values.append(report["ranking"]["kendall_tau"])
        best = " *" if report["epoch"] == result["best"]["epoch"] else ""
        table.add_row(f"{report['epoch']:g}{best}", str(report["step"]), *map(_number, values))
    if constant := result.get("baseline"):  # services of the first versions do not answer it
        values = [result["baseline_loss"], *(constant.get(name) for name in names)]
        table.add_section()
        table.add_row("constant", "", *map(_number, values))
    return table


def _in_two_lines(name: str) -> str:
    """A long name of a metric, broken before its last word, so that no column is cut short."""
    first, line, last = name.rpartition("_")
    return f"{first}{line}\n{last}" if first and len(name) > LONG_NAME else name


def _finetune_notes(result: Json) -> Iterator[str]:
    layers = ", ".join(result["trained_layers"]) or "the head alone"
    share = result["trainable_parameters"] / result["total_parameters"]
    rate = result.get("learning_rate")  # services of the first versions do not answer it
    at_rate = f" at {rate:g}" if rate is not None and result.get("search") else ""
    yield (
        f"trained {layers}{at_rate}: {result['trainable_parameters']:,} of "
        f"{result['total_parameters']:,} parameters ({share:.1%}), "
        f"{result['seconds']['train']:.1f} s; best checkpoint {result['best_checkpoint']} (*)"
    )
    if result["best_checkpoint"]:
        lora = (result.get("adapter") or {}).get("type") == "lora"  # PEFT's folder, as it is
        form = "" if lora else " --form full"
        yield f"to use it: surgeon download {result['best_checkpoint']} DIR{form}"
    for preset, values in result["best"]["also"].items():
        constant = result.get("baseline_also", {}).get(preset, {})
        told = (f"{name} {_number(it)}{_beside(constant, name)}" for name, it in values.items())
        yield f"on {preset}: {', '.join(told)}"
    scores = result["ranking_at_start"]
    if scores is not None:
        yield f"ranking at the start: {', '.join(sorted(scores, key=lambda name: -scores[name]))}"


def _beside(constant: Json, name: str) -> str:
    """What a constant prediction reaches by a metric, in brackets."""
    return f" (a constant: {_number(constant[name])})" if name in constant else ""


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4f}"
