"""The command line's output: JSON, plain lines and results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from surgeon.terminal.comparisons import comparison_view
from surgeon.terminal.estimates import estimate_view
from surgeon.terminal.rankings import ranking_view
from surgeon.terminal.searches import search_view
from surgeon.terminal.tables import (
    finetune_view,
    jobs_table,
    queue_table,
    subject_of,
    workers_table,
)

Json = Mapping[str, Any]
console = Console()
errors = Console(stderr=True)
VIEWS = {
    "ranking": ranking_view,
    "finetune": finetune_view,
    "search": search_view,
    "comparison": comparison_view,
}


def show_json(value: object) -> None:
    """Print a value as one JSON document on standard output."""
    console.out(json.dumps(value, indent=2), highlight=False)


def say(*lines: str) -> None:
    """Print plain lines, without wrapping or markup, so that they can be copied."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_result(job: Json) -> None:
    """Print the result of a finished job, or its error."""
    if job["status"] == "succeeded":
        console.print(VIEWS[job["kind"]](job["result"], subject_of(job)))
        return
    error = job["error"]
    errors.print(f"{job['id']} {job['status']}: {error['detail']} ({error['code']})", style="red")
    for line in (error["log"] or [])[-10:]:
        errors.print(f"  {line}", markup=False, highlight=False)


def show_jobs(jobs: Sequence[Json]) -> None:
    """Print a table of jobs."""
    console.print(jobs_table(jobs) if jobs else "no jobs")


def show_log_line(line: Json, *, as_json: bool) -> None:
    """Print one line of a log."""
    say(json.dumps(line) if as_json else f"{line['at']} {line['source']:<10} {line['text']}")


def show_workers(workers: Sequence[Json]) -> None:
    """Print a table of workers."""
    console.print(workers_table(workers) if workers else "no worker has registered")


def show_queue(answer: Json) -> None:
    """Print how many jobs wait and run, by kind."""
    console.print(queue_table(answer))


def show_estimate(answer: Json) -> None:
    """Print the table of an estimate."""
    console.print(estimate_view(answer))
