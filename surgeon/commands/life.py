"""The commands that cancel, pause, resume, retry, change and delete jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.client import Client
from surgeon.commands.failures import expected_failures
from surgeon.commands.jobs import follow
from surgeon.commands.options import DEFAULT_URL, AsJson, JobId, Json, Key, Url
from surgeon.terminal import terminal


def _show(job: Json, *, as_json: bool) -> None:
    if as_json:
        terminal.show_json(job)
        return
    asked = "cancelled" if job["cancel_requested"] else "paused" if job["pause_requested"] else None
    asked = f", to be {asked}" if asked and job["status"] == "running" else ""
    terminal.console.print(f"{job['id']} is {job['status']}{asked}", highlight=False)


def cancel(job_id: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Cancel a job."""
    with expected_failures(), Client(url, key) as client:
        _show(client.cancel(job_id), as_json=as_json)


def pause(job_id: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Pause a job: its state is saved and its device is free."""
    with expected_failures(), Client(url, key) as client:
        _show(client.pause(job_id), as_json=as_json)


def resume(job_id: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Let a paused job go on."""
    with expected_failures(), Client(url, key) as client:
        _show(client.resume(job_id), as_json=as_json)


def retry(job_id: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Submit a failed or cancelled job again, and follow the new one."""
    with expected_failures(), Client(url, key) as client:
        follow(client, client.retry(job_id), as_json=as_json)


def delete(job_id: JobId, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Delete a job that has ended, with its checkpoints and files."""
    with expected_failures(), Client(url, key) as client:
        client.delete(job_id)
    terminal.say(f"{job_id} is deleted")


def change(
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="The new name; an empty one removes it.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A label to set; without a value it is removed. Give it once for each.",
        ),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=-100, max=100, help="Jobs of higher priority run first.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Change the name, the labels or the priority of a job."""
    changes: Json = {}
    if name is not None:
        changes["name"] = name or None
    if metadata:
        changes["metadata"] = dict(map(_label, metadata))
    if priority is not None:
        changes["priority"] = priority
    with expected_failures(), Client(url, key) as client:
        job = client.change(job_id, changes)
    if as_json:
        terminal.show_json(job)
    else:
        labels = ", ".join(f"{label}={value}" for label, value in job["metadata"].items())
        shown = (job["name"], labels, f"priority {job['priority']}")
        terminal.say(f"{job['id']}: {', '.join(part for part in shown if part)}")


def _label(text: str) -> tuple[str, str | None]:
    label, _, value = text.partition("=")
    return label, value or None
