"""The `surgeon` command."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import DownloadColumn, Progress

from app import terminal
from app.client import ApiError, Client, Unreachable
from app.settings import Settings, settings_from_environment

Json = dict[str, Any]
app = typer.Typer(
    help="Rank an encoder's layers by Fisher information; fine-tune only the ones that matter.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
database = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(database, name="db")

Url = Annotated[str, typer.Option("--url", envvar="SURGEON_URL", help="The service.")]
Key = Annotated[str | None, typer.Option("--key", envvar="SURGEON_API_KEY", help="API key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the job as JSON.")]
Model = Annotated[str, typer.Argument(help="Hugging Face model id.")]
Data = Annotated[
    str, typer.Argument(help="A preset (glue/cola), a dataset id, or a file to upload.")
]
Validation = Annotated[Path | None, typer.Option(help="Validation file, with a file as DATASET.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
HOME = "http://127.0.0.1:8000"


def main() -> None:
    """Entry of the console script."""
    app()


@contextmanager
def failing_plainly() -> Iterator[None]:
    """Expected failures are a message and exit code 1, never a traceback."""
    from app.main import NotMigrated
    from app.serve import Refused

    try:
        yield
    except (ApiError, Unreachable, Refused, NotMigrated) as error:
        terminal.errors.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


def _log(settings: Settings) -> None:
    # Alembic and httpx speak at INFO of things only their authors want to know.
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("surgeon", "uvicorn.error"):
        logging.getLogger(name).setLevel(settings.log_level)


@app.command()
def serve(
    host: Host = "127.0.0.1", port: Port = 8000,
    data_dir: Annotated[Path | None, typer.Option(help="Database, artifacts, caches.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
) -> None:  # fmt: skip
    """Run everything here: API and workers, no other services. Ctrl-C stops all."""
    from app.serve import serve_embedded

    if data_dir is not None:
        os.environ["SURGEON_DATA_DIR"] = str(data_dir.resolve())  # the workers read it too
    os.environ.setdefault("SURGEON_POLL", "0.2")  # a local file is cheap to look at
    settings = settings_from_environment()
    _log(settings)

    def ready() -> None:
        terminal.errors.print(
            f"Layer Surgeon on http://{host}:{port} (documentation at /docs), "
            f"data in {settings.data_dir.resolve()}", highlight=False,
        )  # fmt: skip

    with failing_plainly():
        serve_embedded(settings, host, port, workers, ready)


@app.command()
def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run the API alone."""
    from app.serve import serve_api

    settings = settings_from_environment()
    _log(settings)
    with failing_plainly():
        serve_api(settings, host, port)


@app.command()
def worker(
    queues: Annotated[str, typer.Option(help="Kinds of job to serve.")] = "ranking,finetune",
) -> None:
    """Run a worker: on Celery where SURGEON_REDIS_URL is set, else polling the database."""
    # The API's package does not import the worker's: it becomes that process.
    command = [sys.executable, "-m", "worker.main", "--queues", queues]
    os.execv(sys.executable, command)  # noqa: S606  # our own argument list, no shell


@database.command("upgrade")
def db_upgrade() -> None:
    """Apply every migration."""
    from app.db import Database

    settings = settings_from_environment()
    _log(settings)
    opened = Database(settings.resolved_database_url)
    opened.upgrade()
    opened.close()
    terminal.errors.print("the database is at its newest migration")


@app.command()
def key() -> None:
    """Make an API key. It is shown once; the service is given its hash only."""
    secret = f"sk_{secrets.token_urlsafe(32)}"
    terminal.console.out(f"key   {secret}", highlight=False)
    terminal.console.out(f"hash  {hashlib.sha256(secret.encode()).hexdigest()}", highlight=False)


def _dataset(client: Client, given: str, validation: Path | None) -> str:
    """A file is uploaded and named by its id; anything else is the service's to know."""
    path = Path(given)
    if not path.is_file():
        if validation is not None:
            raise typer.BadParameter("--validation goes with a file as DATASET")
        return given
    uploaded = client.upload(path, validation)
    rows = uploaded["rows"]
    terminal.errors.print(
        f"uploaded {path.name} as {uploaded['id']}: {rows['train']:,} training and "
        f"{rows['validation']:,} validation rows", highlight=False,
    )  # fmt: skip
    for warning in uploaded["warnings"]:
        terminal.errors.print(f"warning: {warning}", highlight=False, markup=False)
    return str(uploaded["id"])


def _follow(client: Client, job: Json, *, as_json: bool) -> None:
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


@app.command()
def rank(
    model: Model, dataset: Data, validation: Validation = None,
    samples: Annotated[int, typer.Option(min=2)] = 256,
    aggregate: Annotated[str, typer.Option(help="trace, mean or frobenius")] = "trace",
    max_length: Annotated[int, typer.Option(min=4)] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore a stored result.")] = False,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Rank the layers of MODEL on DATASET."""
    with failing_plainly(), Client(url, key) as client:
        body = {
            "model": model, "dataset": _dataset(client, dataset, validation), "samples": samples,
            "aggregate": aggregate, "max_length": max_length, "seed": seed,
            "cache": "bypass" if fresh else "use",
        }  # fmt: skip
        _follow(client, client.submit("rankings", body), as_json=as_json)


def _selection(counts: dict[str, int | None], layers: str | None, whole: dict[str, bool]) -> Json:
    """Exactly one of the options that choose layers."""
    given: list[Json] = [{"policy": p, "k": k} for p, k in counts.items() if k is not None]
    given += [{"policy": policy} for policy, wanted in whole.items() if wanted]
    if layers is not None:
        names = [
            int(part) if part.strip().isdigit() else part.strip() for part in layers.split(",")
        ]
        given.append({"policy": "layers", "layers": names})
    if len(given) != 1:
        raise typer.BadParameter(
            "choose layers with exactly one of --top-k, --first-k, --last-k, --random-k, --layers, "
            "--all, --head-only"
        )
    return given[0]


@app.command()
def tune(  # one option a line of --help
    model: Model, dataset: Data, validation: Validation = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Best layers of a ranking.")] = None,
    first_k: Annotated[int | None, typer.Option(min=1)] = None,
    last_k: Annotated[int | None, typer.Option(min=1)] = None,
    random_k: Annotated[int | None, typer.Option(min=1)] = None,
    layers: Annotated[str | None, typer.Option(help="Names or indices, comma-separated.")] = None,
    all_layers: Annotated[bool, typer.Option("--all")] = False,
    head_only: Annotated[bool, typer.Option("--head-only")] = False,
    ranking: Annotated[str | None, typer.Option(help="A ranking's id, for --top-k.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    learning_rate: Annotated[float, typer.Option()] = 5e-5,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_length: Annotated[int, typer.Option(min=4)] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    form: Annotated[str, typer.Option(help="Checkpoints: delta or full.")] = "delta",
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fine-tune chosen layers of MODEL and the head on DATASET."""
    counts = {"top_k": top_k, "first_k": first_k, "last_k": last_k, "random_k": random_k}
    selection = _selection(counts, layers, {"all": all_layers, "head_only": head_only})
    if ranking is not None:
        selection["ranking"] = ranking
    with failing_plainly(), Client(url, key) as client:
        body = {
            "model": model, "dataset": _dataset(client, dataset, validation),
            "selection": selection, "checkpoints": {"form": form},
            "training": {
                "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
                "max_length": max_length, "seed": seed,
            },
        }  # fmt: skip
        _follow(client, client.submit("finetunes", body), as_json=as_json)


@app.command()
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


@app.command()
def watch(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Follow a job to its end."""
    with failing_plainly(), Client(url, key) as client:
        _follow(client, client.job(job_id), as_json=as_json)


@app.command()
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


@app.command()
def download(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A fine-tune or a checkpoint.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to unpack it.")],
    form: Annotated[str | None, typer.Option(help="full: a plain transformers folder.")] = None,
    url: Url = HOME, key: Key = None,
) -> None:  # fmt: skip
    """Download a checkpoint: of a fine-tune, its best one."""
    with failing_plainly(), Client(url, key) as client:
        if not identifier.startswith("ck_"):
            found = client.checkpoints(identifier)
            if not found:
                raise ApiError(
                    {
                        "code": "not_found",
                        "detail": f"{identifier} has no checkpoint yet",
                    }
                )
            identifier = next((c["id"] for c in found if c["is_best"]), found[-1]["id"])
        with Progress(
            *Progress.get_default_columns(), DownloadColumn(), console=terminal.errors
        ) as bar:
            task = bar.add_task(identifier, total=None)
            client.download(
                identifier, folder, form,
                lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    terminal.console.out(str(folder.resolve()), highlight=False)


if __name__ == "__main__":
    main()
