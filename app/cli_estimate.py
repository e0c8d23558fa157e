"""`surgeon estimate`: what fine-tunes would take."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from app import terminal
from app.cli_client import HOME, AsJson, Key, Model, Url, failing_plainly
from app.cli_upload import Dataset, dataset_of, described
from app.client import Client
from surgery.terms import Policy

Json = dict[str, Any]
COLUMNS = (
    "k", "lowest layer", "parameters", "peak MiB", "checkpoint MiB", "first s", "later s",
    "total s",
)  # fmt: skip


def estimate(
    model: Model, dataset: Dataset,
    policy: Annotated[Policy, typer.Option(help="Which layers train.")] = Policy.TOP_K,
    k: Annotated[list[int] | None, typer.Option(min=1, help="May be given several times.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_length: Annotated[int, typer.Option(min=4)] = 128,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Estimate what fine-tunes of MODEL on DATASET would take, for each number of layers."""
    if policy.value.endswith("_k") == (k is None) and policy is not Policy.TOP_K:
        raise typer.BadParameter("--k goes with the *_k policies")
    body: Json = {
        "model": model,
        "training": {"epochs": epochs, "batch_size": batch_size, "max_length": max_length},
    }
    if k is not None or policy is not Policy.TOP_K:
        body |= {"selection": {"policy": policy.value}} | ({"k": k} if k else {})
    with failing_plainly(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, described(None, None, None, None, 0))
        answer = client.call("POST", "/v1/estimates", json=body)
    if as_json:
        terminal.show_json(answer)
    else:
        _show(answer)


def _show(answer: Json) -> None:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in answer["rows"]:
        seconds = row["seconds"] or {}
        table.add_row(
            _shown(row["k"]), _shown(row["lowest_layer"]), _shown(row["trainable_parameters"]),
            _mebibytes(row["peak_memory_bytes"]), _mebibytes(row["checkpoint_bytes"]),
            *(_shown(seconds.get(name)) for name in ("first_epoch", "later_epoch", "total")),
        )  # fmt: skip
    terminal.console.print(table)
    told = answer["throughput"]
    basis = f"{told['basis']}: {told['device']}" if told else "no fine-tune has finished yet"
    terminal.console.print(f"seconds: {basis}", markup=False, highlight=False)
    terminal.console.print(f"tokens: by {answer['lengths']['source']}", highlight=False)


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _mebibytes(size: int | None) -> str:
    return _shown(None if size is None else size / 2**20)
