"""The commands that submit, list and follow jobs, and download their checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon.client import Client
from surgeon.commands.datasets import dataset_of, file_options
from surgeon.commands.failures import ExitCode, expected_failures
from surgeon.commands.options import (
    DEFAULT_URL,
    AsJson,
    Dataset,
    JobId,
    Json,
    Key,
    Model,
    Url,
    finite,
    rate_of,
    rate_option,
    trained_of,
    trials_of,
    values_of,
    with_options,
)
from surgeon.terminal import terminal
from surgeon.terminal.progress import job_progress
from surgery.command_line.options import DATASET_OPTIONS
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.prediction import PredictionSpec
from surgery.schemas.jobs.ranking import RANKING_OPTIONS, JobRequest
from surgery.schemas.jobs.search import SEARCH_OPTIONS
from surgery.schemas.jobs.selection import SELECTION_OPTIONS, SelectionSpec
from surgery.schemas.options.adapter import ADAPTER_OPTIONS
from surgery.schemas.options.head import HEAD_FIT
from surgery.schemas.options.training import TRIAL_OPTIONS, CheckpointSpec, TrainingSpec

RANKING_ID = option_of(
    SelectionSpec,
    "ranking",
    help="Id of the ranking whose scores choose the layers; see `surgeon rank`.",
)
SEARCH_ID = option_of(
    SelectionSpec,
    "search",
    name="search_id",
    type=str,
    metavar="ID",
    help="With --search: id of the finished search that found the layers; see `surgeon search`.",
)
OPTIONS_OF_TUNE = options_of(TrainingSpec, "epochs", "batch_size", "max_length", "seed")
RATE = rate_option("The learning rate of AdamW at the end of the warm-up.")
WATCH_SECONDS = 3600.0  # for which `watch` asks a service that does not answer
SUBMISSION_OPTIONS = options_of(JobRequest, "deadline_seconds")


def follow(
    client: Client,
    job: Json,
    *,
    as_json: bool,
    show: Callable[[Json], None] = terminal.show_result,
) -> None:
    """Wait for a job and show its outcome. Exits with an error's code unless it succeeded."""
    terminal.show_warnings(job)
    with job_progress() as on_update:
        job = client.wait(job, on_update)
    if as_json:
        terminal.show_json(job)
    else:
        show(job)
    if job["status"] != "succeeded":
        cancelled = job["status"] == "cancelled"
        raise typer.Exit(ExitCode.CANCELLED if cancelled else ExitCode.FAILED)


@with_options(*DATASET_OPTIONS, *RANKING_OPTIONS, HEAD_FIT, *SUBMISSION_OPTIONS)
def rank(
    model: Model,
    dataset: Dataset,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute it even if the result is stored.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Rank the layers of MODEL on DATASET."""
    body: Json = {
        **values_of(RANKING_OPTIONS, given),
        **values_of(SUBMISSION_OPTIONS, given),
        "model": model,
        "cache": "bypass" if fresh else "use",
        "head": {
            "init": "new" if given["head_seeds"] > 1 else "auto",
            "fit": given["head_fit"],
        },
    }
    data = file_options(given)
    with expected_failures(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("rankings", body), as_json=as_json)


@with_options(
    *DATASET_OPTIONS,
    *SELECTION_OPTIONS,
    RANKING_ID,
    SEARCH_ID,
    *ADAPTER_OPTIONS,
    *OPTIONS_OF_TUNE,
    RATE,
    *TRIAL_OPTIONS,
    *options_of(CheckpointSpec, "form"),
    *options_of(FinetuneSpec, "track_ranking"),
    option_of(FinetuneSpec, "also_evaluate", repeated=True, metavar="PRESET"),
    *SUBMISSION_OPTIONS,
)
def tune(
    model: Model,
    dataset: Dataset,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Fine-tune the chosen layers of MODEL, or an adapter, and its head, on DATASET."""
    body: Json = {
        "model": model,
        **trained_of(given),
        "training": {**values_of(OPTIONS_OF_TUNE, given), **rate_of(given), **trials_of(given)},
        "checkpoints": {"form": given["form"]},
        "track_ranking": given["track_ranking"],
        "also_evaluate": given["also_evaluate"] or [],
        **values_of(SUBMISSION_OPTIONS, given),
    }
    data = file_options(given)
    with expected_failures(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("finetunes", body), as_json=as_json)


@with_options(
    *DATASET_OPTIONS,
    *SEARCH_OPTIONS,
    *options_of(TrainingSpec, "epochs", "batch_size", "max_length"),
    HEAD_FIT,
    *SUBMISSION_OPTIONS,
)
def search(
    model: Model,
    dataset: Dataset,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Search for the layers of MODEL that learn DATASET best, and for their learning rate."""
    options = values_of(SEARCH_OPTIONS, given)
    options["families"] = [part.strip() for part in given["families"].split(",")]
    options["learning_rates"] = [finite(part) for part in given["learning_rates"].split(",")]
    body: Json = {
        **options,
        **values_of(SUBMISSION_OPTIONS, given),
        "model": model,
        "training": {
            **{name: given[name] for name in ("epochs", "batch_size", "max_length")},
            "head": {"fit": given["head_fit"]},
        },
    }
    data = file_options(given)
    with expected_failures(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("searches", body), as_json=as_json)


@with_options(*options_of(PredictionSpec, "top"), *SUBMISSION_OPTIONS)
def predict(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a checkpoint or of a fine-tune.")
    ],
    text: Annotated[
        list[str] | None, typer.Option(help="A text to predict for. Give it once for each.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A file of rows, each a JSON object on a line of its own.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Predict with a checkpoint, or with the best checkpoint of a fine-tune."""
    if bool(text) == (file is not None):
        raise typer.BadParameter("give texts with --text, or rows with --file")
    with expected_failures(), Client(url, key) as client:
        if not identifier.startswith("ck_"):
            identifier = client.best_checkpoint(identifier)
        rows = rows_in(file) if file else rows_of(client.record(identifier), text or [])
        body: Json = {
            "checkpoint": identifier,
            "rows": rows,
            **values_of(options_of(PredictionSpec, "top"), given),
            **values_of(SUBMISSION_OPTIONS, given),
        }
        show = partial(terminal.show_predictions, rows=rows)
        follow(client, client.submit("predictions", body), as_json=as_json, show=show)


def rows_of(record: Json, texts: Sequence[str]) -> list[Json]:
    """Texts as rows for a checkpoint with this record; of its words if that is what it reads.

    Raises BadParameter if its model reads more than one column.
    """
    columns = {part: record.get("columns", {}).get(part, part) for part in record["inputs"]}
    if columns.keys() == {"text"}:
        return [{columns["text"]: text} for text in texts]
    if columns.keys() == {"tokens"}:
        return [{columns["tokens"]: text.split()} for text in texts]
    names = ", ".join(
        name for each in columns.values() for name in (each if isinstance(each, list) else [each])
    )
    raise typer.BadParameter(f"the model reads the columns {names}; give rows with --file")


def rows_in(file: Path) -> list[Json]:
    """The rows of a file of JSON Lines; empty lines are left out. Raises BadParameter."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise typer.BadParameter(f"{file}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise typer.BadParameter(f"{file}, line {number} is no object")
        rows.append(row)
    return rows


def jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded …")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    params = {"limit": limit, **({"status": status} if status else {})}
    with expected_failures(), Client(url, key) as client:
        listed = client.call("GET", "/v1/jobs", params=params)["data"]
        uploaded = {job["resolved"]["dataset"]["id"] for job in listed}
        names = {} if as_json else client.dataset_names(uploaded)
    if as_json:
        terminal.show_json(listed)
    else:
        terminal.show_jobs(listed, names)


def watch(job_id: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Follow a job until it ends, also through an outage of the service of up to an hour."""
    with expected_failures(), Client(url, key, patience=WATCH_SECONDS) as client:
        follow(client, client.job(job_id), as_json=as_json)


def logs(
    job_id: JobId,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Number of the attempt; without it the latest one.")
    ] = None,
    keep_on: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as JSON.")] = False,
) -> None:
    """Show what a job's worker said about it and what its processes printed."""
    with expected_failures(), Client(url, key) as client:
        for line in client.log_lines(job_id, attempt, follow=keep_on):
            terminal.show_log_line(line, as_json=as_json)


def workers(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """List the workers of the last week, what they can run and whether they are alive."""
    with expected_failures(), Client(url, key) as client:
        listed = client.call("GET", "/v1/workers", params={"limit": 200})["data"]
    if as_json:
        terminal.show_json(listed)
    else:
        terminal.show_workers(listed)


def queue(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Show how many jobs wait and run, and how many workers there are for them."""
    with expected_failures(), Client(url, key) as client:
        answer = client.call("GET", "/v1/queue")
    if as_json:
        terminal.show_json(answer)
    else:
        terminal.show_queue(answer)


def download(
    identifier: Annotated[
        str,
        typer.Argument(metavar="ID", help="Id of a fine-tune, of a comparison or of a checkpoint."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to unpack it.")],
    form: Annotated[
        str | None, typer.Option(help="full: a folder that plain transformers can load.")
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of a comparison: another arm than the one it decided for."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Download a checkpoint, the best one of a fine-tune, or the one that a comparison decided for.

    Of an arm it is that of the run with the highest metric."""
    if arm is not None and identifier.startswith("ck_"):
        raise typer.BadParameter("--arm goes with a comparison, not with a checkpoint")
    with expected_failures(), Client(url, key) as client:
        if not identifier.startswith("ck_"):
            identifier = client.best_checkpoint(identifier, arm)
        client.download(identifier, folder, form, progress=True)
    terminal.console.out(str(folder.resolve()), highlight=False)
