"""The commands about jobs: submit, list, follow, cancel and download them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon.client import Client
from surgeon.commands.datasets import dataset_of, described
from surgeon.commands.failures import failing_plainly
from surgeon.commands.options import (
    HOME,
    AsJson,
    Dataset,
    JobId,
    Json,
    Key,
    Model,
    Url,
    selection_of,
    taking,
    values_of,
)
from surgeon.terminal import terminal
from surgery.data.options import DATASET_OPTIONS
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.ranking import RANKING_OPTIONS
from surgery.schemas.selection import SELECTION_OPTIONS, SelectionSpec
from surgery.schemas.training import CheckpointSpec, TrainingSpec

RANKING_ID = option_of(
    SelectionSpec, "ranking", help="Id of the ranking whose scores choose; see `surgeon rank`."
)
TRAINING_OPTIONS = options_of(
    TrainingSpec, "epochs", "learning_rate", "batch_size", "max_length", "seed"
)


def follow(client: Client, job: Json, *, as_json: bool) -> None:
    """Wait for a job, show its outcome, and exit 1 when it did not succeed."""
    bar, seen = terminal.progress_bar()
    with bar:
        job = client.wait(job, seen)
    if as_json:
        terminal.show_json(job)
    else:
        terminal.show_result(job)
    if job["status"] != "succeeded":
        raise typer.Exit(1)


@taking(*DATASET_OPTIONS, *RANKING_OPTIONS)
def rank(
    model: Model,
    dataset: Dataset,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore a stored result.")] = False,
    url: Url = HOME,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Rank the layers of MODEL on DATASET."""
    body: Json = {
        **values_of(RANKING_OPTIONS, given),
        "model": model,
        "cache": "bypass" if fresh else "use",
        "head": {"init": "new" if given["head_seeds"] > 1 else "auto"},
    }
    data = described(given)
    with failing_plainly(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("rankings", body), as_json=as_json)


@taking(
    *DATASET_OPTIONS,
    *SELECTION_OPTIONS,
    RANKING_ID,
    *TRAINING_OPTIONS,
    *options_of(CheckpointSpec, "form"),
    *options_of(FinetuneSpec, "track_ranking"),
    option_of(FinetuneSpec, "also_evaluate", repeated=True, metavar="PRESET"),
)
def tune(
    model: Model,
    dataset: Dataset,
    url: Url = HOME,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Fine-tune chosen layers of MODEL and the head on DATASET."""
    body: Json = {
        "model": model,
        "selection": selection_of(given),
        "training": values_of(TRAINING_OPTIONS, given),
        "checkpoints": {"form": given["form"]},
        "track_ranking": given["track_ranking"],
        "also_evaluate": given["also_evaluate"] or [],
    }
    data = described(given)
    with failing_plainly(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("finetunes", body), as_json=as_json)


def jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded …")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    url: Url = HOME,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    params = {"limit": limit, **({"status": status} if status else {})}
    with failing_plainly(), Client(url, key) as client:
        found = client.call("GET", "/v1/jobs", params=params)["data"]
    if as_json:
        terminal.show_json(found)
    else:
        terminal.show_jobs(found)


def watch(job_id: JobId, url: Url = HOME, key: Key = None, as_json: AsJson = False) -> None:
    """Follow a job to its end."""
    with failing_plainly(), Client(url, key) as client:
        follow(client, client.job(job_id), as_json=as_json)


def cancel(job_id: JobId, url: Url = HOME, key: Key = None, as_json: AsJson = False) -> None:
    """Stop a job."""
    with failing_plainly(), Client(url, key) as client:
        job = client.call("POST", f"/v1/jobs/{job_id}/cancel")
    if as_json:
        terminal.show_json(job)
    else:
        terminal.console.print(f"{job['id']} is {job['status']}", highlight=False)


def download(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A fine-tune or a checkpoint.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to unpack it.")],
    form: Annotated[str | None, typer.Option(help="full: a plain transformers folder.")] = None,
    url: Url = HOME,
    key: Key = None,
) -> None:
    """Download a checkpoint: of a fine-tune, its best one."""
    with failing_plainly(), Client(url, key) as client:
        if not identifier.startswith("ck_"):
            identifier = client.best_checkpoint(identifier)
        bar, seen = terminal.download_bar(identifier)
        with bar:
            client.download(identifier, folder, form, seen)
    terminal.console.out(str(folder.resolve()), highlight=False)
