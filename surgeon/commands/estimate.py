"""`surgeon estimate`: what fine-tunes would take."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from surgeon.client import Client
from surgeon.commands.jobs import HOME, AsJson, Key, Model, Url, failing_plainly
from surgeon.commands.options import (
    AllLayers,
    BottomK,
    Chosen,
    Dataset,
    FirstK,
    HeadOnly,
    Include,
    LastK,
    Layers,
    MaxParameters,
    RandomK,
    Ranking,
    TopK,
    TopShare,
    dataset_of,
    described,
    selection_of,
)
from surgeon.terminal import terminal
from surgery.schemas.enums import POLICIES, Policy
from surgery.schemas.selection import OPTIONS

Json = dict[str, Any]
COLUMNS = (
    "k", "lowest layer", "parameters", "peak MiB", "checkpoint MiB", "first s", "later s",
    "total s",
)  # fmt: skip


def estimate(
    model: Model, dataset: Dataset,
    top_k: TopK = None, top_share: TopShare = None, max_parameters: MaxParameters = None,
    bottom_k: BottomK = None, first_k: FirstK = None, last_k: LastK = None,
    random_k: RandomK = None, layers: Layers = None, all_layers: AllLayers = False,
    head_only: HeadOnly = False, granularity: Chosen = None, include: Include = None,
    ranking: Ranking = None,
    policy: Annotated[Policy | None, typer.Option(help="Of --k: a *_k one.")] = None,
    k: Annotated[list[int] | None, typer.Option(min=1, help="May be given several times.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_length: Annotated[int, typer.Option(min=4)] = 128,
    seed: Annotated[int, typer.Option(min=0, help="For --random-k.")] = 0,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Estimate what fine-tunes of MODEL on DATASET would take: for every number of layers, for
    those of --k, or for the layers that one option of `tune` chooses."""
    given: Json = {
        "top_k": top_k, "top_share": top_share, "max_parameters": max_parameters,
        "bottom_k": bottom_k, "first_k": first_k, "last_k": last_k, "random_k": random_k,
        "layers": layers, "all": all_layers, "head_only": head_only, "granularity": granularity,
        "include": include, "seed": seed, "ranking": ranking,
    }  # fmt: skip
    body: Json = {
        "model": model, "training": {"epochs": epochs, "batch_size": batch_size,
                                     "max_length": max_length, "seed": seed},
        **_asked(given, policy, k),
    }  # fmt: skip
    with failing_plainly(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, described(None, None, None, None, 0))
        answer = client.call("POST", "/v1/estimates", json=body)
    if as_json:
        terminal.show_json(answer)
    else:
        _show(answer)


def _asked(given: Json, policy: Policy | None, k: list[int] | None) -> Json:
    """The selection and the numbers of layers to compare; neither for every number of layers."""
    if policy is not None and (k is None or POLICIES[policy].takes != "k"):
        raise typer.BadParameter(
            f"--policy goes with --k and is a *_k policy; else write {OPTIONS}"
        )
    if k is not None:
        counted = policy or Policy.TOP_K
        if given[counted] is not None:
            raise typer.BadParameter(f"--k lists the numbers of --policy {counted.value}")
        return {"selection": selection_of({**given, counted: k[0]}), "k": k}
    told = {name for name, value in given.items() if value is not None and value is not False}
    told -= {"seed"}
    return {"selection": selection_of(given)} if told else {}


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
