"""The commands about jobs: submit, list, follow, cancel and download them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import DownloadColumn, Progress

from surgeon.client import ApiError, Client, Unreachable, Unsendable
from surgeon.commands.options import (
    AllLayers,
    BottomK,
    Chosen,
    Columns,
    Dataset,
    FirstK,
    HeadOnly,
    Include,
    Labels,
    LastK,
    Layers,
    LearningRate,
    MaxParameters,
    ProblemName,
    RandomK,
    Ranking,
    SplitSeed,
    TopK,
    TopShare,
    Validation,
    dataset_of,
    described,
    selection_of,
    uploaded,
)
from surgeon.terminal import terminal
from surgery.schemas.enums import Aggregate, Fisher, Granularity, Method, Precision

Json = dict[str, Any]
Url = Annotated[str, typer.Option("--url", envvar="SURGEON_URL", help="The service.")]
Key = Annotated[str | None, typer.Option("--key", envvar="SURGEON_API_KEY", help="API key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Model = Annotated[str, typer.Argument(help="Hugging Face model id.")]
AlsoEvaluate = Annotated[
    list[str] | None, typer.Option(help="A preset to measure on too; once for each.")
]
HOME = "http://127.0.0.1:8000"


@contextmanager
def failing_plainly(*expected: type[Exception]) -> Iterator[None]:
    """Expected failures, of files among them, are a message and exit code 1, no traceback."""
    kinds: tuple[type[Exception], ...] = (ApiError, Unreachable, Unsendable, OSError, *expected)
    try:
        yield
    except kinds as error:
        terminal.errors.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


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


def rank(
    model: Model, dataset: Dataset, validation: Validation = None, columns: Columns = None,
    problem: ProblemName = None, labels: Labels = None, split_seed: SplitSeed = 0,
    method: Annotated[Method, typer.Option(help="What a score measures.")] = Method.FISHER,
    aggregate: Annotated[Aggregate, typer.Option(help="For fisher.")] = Aggregate.TRACE,
    granularity: Annotated[Granularity, typer.Option(help="What is ranked.")] = Granularity.LAYER,
    fisher: Annotated[Fisher, typer.Option(help="Labels of the gradients.")] = Fisher.EMPIRICAL,
    draws: Annotated[int, typer.Option(min=1, help="Labels a row, for sampled.")] = 1,
    samples: Annotated[int, typer.Option(min=2, help="Training rows scored.")] = 256,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Stop when certain.")] = False,
    head_seeds: Annotated[int, typer.Option(min=1, help="Average over so many new heads.")] = 1,
    precision: Annotated[
        Precision | None, typer.Option(help="bf16 on a GPU that has it, else fp32, unless given.")
    ] = None,
    no_prior: Annotated[
        bool, typer.Option("--no-prior", help="Do not also rank on shuffled labels and tokens.")
    ] = False,
    max_length: Annotated[int, typer.Option(min=4, help="Tokens kept of a row.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore a stored result.")] = False,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Rank the layers of MODEL on DATASET."""
    given: Json = {
        "method": method, "aggregate": aggregate, "granularity": granularity, "fisher": fisher,
        "draws": draws, "samples": samples, "adaptive": adaptive, "head_seeds": head_seeds,
        "precision": precision, "max_length": max_length, "seed": seed,
        "model_prior": not no_prior, "cache": "bypass" if fresh else "use",
        "head": {"init": "new" if head_seeds > 1 else "auto"},
    }  # fmt: skip
    data = described(validation, columns, problem, labels, split_seed)
    with failing_plainly(), Client(url, key) as client:
        what = {"model": model, "dataset": dataset_of(client, dataset, data)}
        follow(client, client.submit("rankings", given | what), as_json=as_json)


def tune(  # one option a line of --help
    model: Model, dataset: Dataset, validation: Validation = None, columns: Columns = None,
    problem: ProblemName = None, labels: Labels = None, split_seed: SplitSeed = 0,
    top_k: TopK = None, top_share: TopShare = None, max_parameters: MaxParameters = None,
    bottom_k: BottomK = None, first_k: FirstK = None, last_k: LastK = None,
    random_k: RandomK = None, layers: Layers = None, all_layers: AllLayers = False,
    head_only: HeadOnly = False, granularity: Chosen = None, include: Include = None,
    ranking: Ranking = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    learning_rate: LearningRate = 5e-5,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_length: Annotated[int, typer.Option(min=4)] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    form: Annotated[str, typer.Option(help="Checkpoints: delta or full.")] = "delta",
    track_ranking: Annotated[
        bool, typer.Option("--track-ranking", help="Rank again at every evaluation.")
    ] = False,
    also_evaluate: AlsoEvaluate = None,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fine-tune chosen layers of MODEL and the head on DATASET."""
    selection = selection_of({
        "top_k": top_k, "top_share": top_share, "max_parameters": max_parameters,
        "bottom_k": bottom_k, "first_k": first_k, "last_k": last_k, "random_k": random_k,
        "layers": layers, "all": all_layers, "head_only": head_only, "granularity": granularity,
        "include": include, "seed": seed, "ranking": ranking,
    })  # fmt: skip
    data = described(validation, columns, problem, labels, split_seed)
    with failing_plainly(), Client(url, key) as client:
        body = {
            "model": model, "dataset": dataset_of(client, dataset, data),
            "selection": selection, "checkpoints": {"form": form}, "track_ranking": track_ranking,
            "also_evaluate": also_evaluate or [],
            "training": {
                "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
                "max_length": max_length, "seed": seed,
            },
        }  # fmt: skip
        follow(client, client.submit("finetunes", body), as_json=as_json)


def upload(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", exists=True, dir_okay=False)],
    validation: Validation = None, columns: Columns = None, problem: ProblemName = None,
    labels: Labels = None, split_seed: SplitSeed = 0,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Check a dataset and keep it; its id is printed, for DATASET of the other commands."""
    data = described(validation, columns, problem, labels, split_seed)
    with failing_plainly(), Client(url, key) as client:
        found = uploaded(client, train, data)
    if as_json:
        terminal.show_json(found)
    else:
        terminal.console.out(found["id"], highlight=False)


def jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded …")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """List jobs, newest first."""
    params = {"limit": limit, **({"status": status} if status else {})}
    with failing_plainly(), Client(url, key) as client:
        found = client.call("GET", "/v1/jobs", params=params)["data"]
    if as_json:
        terminal.show_json(found)
    else:
        terminal.show_jobs(found)


def watch(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Follow a job to its end."""
    with failing_plainly(), Client(url, key) as client:
        follow(client, client.job(job_id), as_json=as_json)


def cancel(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
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
    url: Url = HOME, key: Key = None,
) -> None:  # fmt: skip
    """Download a checkpoint: of a fine-tune, its best one."""
    with failing_plainly(), Client(url, key) as client:
        if not identifier.startswith("ck_"):
            identifier = client.best_checkpoint(identifier)
        with Progress(
            *Progress.get_default_columns(), DownloadColumn(), console=terminal.errors
        ) as bar:
            task = bar.add_task(identifier, total=None)
            client.download(
                identifier, folder, form,
                lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    terminal.console.out(str(folder.resolve()), highlight=False)


client_commands = (rank, tune, upload, jobs, watch, cancel, download)
