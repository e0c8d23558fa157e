"""The command line's output: JSON, plain lines and results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType

from surgeon.terminal.listing import datasets_listing, jobs_listing
from surgeon.terminal.next_steps import step_lines
from surgeon.terminal.results.comparisons import comparison_view
from surgeon.terminal.results.estimates import estimate_view
from surgeon.terminal.results.exports import export_view
from surgeon.terminal.results.predictions import prediction_view
from surgeon.terminal.results.rankings import ranking_view
from surgeon.terminal.results.searches import search_view
from surgeon.terminal.tables import (
    finetune_view,
    queue_table,
    subject_of,
    workers_table,
)
from surgeon.terminal.wording import OF_JOBS, warning_lines
from surgery.command_line.wording import fault_lines

Json = Mapping[str, Any]
console = Console()
errors = Console(stderr=True)
VIEWS = {
    "ranking": ranking_view,
    "finetune": finetune_view,
    "search": search_view,
    "prediction": prediction_view,
    "export": export_view,
    "comparison": comparison_view,
}


def show_json(value: object) -> None:
    """Print a value as one JSON document on standard output."""
    console.out(json.dumps(value, indent=2), highlight=False)


def show(view: RenderableType) -> None:
    """Print a table or a text. Lines that are longer than the terminal's are not cut."""
    console.print(view, crop=False, highlight=False)


def say(*lines: str) -> None:
    """Print plain lines, without wrapping or markup, so that they can be copied."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def complain(*lines: str) -> None:
    """Print the lines of an error. Commands to copy, which are indented, are not wrapped."""
    for line in lines:
        errors.print(
            line, style="red", markup=False, highlight=False, soft_wrap=line.startswith("  try: ")
        )


def show_predictions(job: Json, rows: Sequence[Json]) -> None:
    """Print the predictions of a finished job beside their rows, or the job's error."""
    if job["status"] == "succeeded":
        show(prediction_view(job["result"], subject_of(job), rows))
    else:
        show_result(job)


def show_result(job: Json, *, steps: bool = True) -> None:
    """Print the result of a finished job, or its error, what to do next, and last its warnings."""
    if job["status"] == "succeeded":
        show(VIEWS[job["kind"]](job["result"], subject_of(job)))
    else:
        error = job["error"]
        told = OF_JOBS.told(error["detail"])
        complain(f"{job['id']} {job['status']}: {told} ({error['code']})")
        complain(*fault_lines(error, OF_JOBS))
        for line in (error["log"] or [])[-10:]:
            errors.print(f"  {line}", markup=False, highlight=False)
    if steps:
        show_steps(job)
    for line in warning_lines((job["result"] or {}).get("warnings", ())):
        show(line)


def show_steps(job: Json) -> None:
    """Print what to do after a job. Commands are not wrapped, so that they can be copied."""
    output = console if job["status"] == "succeeded" else errors
    steps = job.get("next_steps") or []  # none of a service of the first versions
    for line in step_lines(steps, output.width):
        wrapped = line.startswith("next: ")
        output.print(line, markup=False, highlight=False, soft_wrap=not wrapped)


def show_warnings(job: Json) -> None:
    """Print what was noticed at a job's submission."""
    for line in warning_lines(job["warnings"]):
        errors.print(line)


def show_jobs(jobs: Sequence[Json], names: Mapping[str, str]) -> None:
    """Print a list of jobs; ``names`` are those of uploaded datasets, by id."""
    show(jobs_listing(jobs, names) if jobs else "no jobs")


def show_datasets(datasets: Sequence[Json]) -> None:
    """Print a list of stored datasets."""
    show(datasets_listing(datasets) if datasets else "no dataset is stored: surgeon upload FILE")


def show_log_line(line: Json, *, as_json: bool) -> None:
    """Print one line of a log."""
    say(json.dumps(line) if as_json else f"{line['at']} {line['source']:<10} {line['text']}")


def show_workers(workers: Sequence[Json]) -> None:
    """Print a table of workers."""
    show(workers_table(workers) if workers else "no worker has registered")


def show_queue(answer: Json) -> None:
    """Print how many jobs wait and run, by kind."""
    show(queue_table(answer))


def show_estimate(answer: Json) -> None:
    """Print the table of an estimate."""
    show(estimate_view(answer))
