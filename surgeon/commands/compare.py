"""`surgeon compare`: several ways to train, side by side."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from surgeon.client import Client
from surgeon.commands.jobs import (
    HOME,
    AlsoEvaluate,
    AsJson,
    Key,
    Model,
    Url,
    failing_plainly,
    follow,
)
from surgeon.commands.options import (
    Columns,
    Dataset,
    Labels,
    LearningRate,
    ProblemName,
    SplitSeed,
    Validation,
    dataset_of,
    described,
    finite,
    selection_of,
)
from surgery.schemas.enums import POLICIES, Policy

Json = dict[str, Any]
ADAPTERS = ("lora", "bitfit")


def arm_from(text: str) -> Json:
    """`top_k=2`, `layers=1,4`, `all`, `lora=8` or `bitfit` as an arm of that name.

    Raises BadParameter.
    """
    word, _, value = text.partition("=")
    word = word.strip().replace("-", "_")
    name = re.sub(r"[^\w.]+", "-", text.strip()).strip("-")
    if word == "bitfit" and value:
        raise typer.BadParameter(f"{text!r}: write bitfit, which takes no number")
    if word in ADAPTERS:
        rank = {"rank": _number(text, value)} if value else {}
        return {"name": name, "adapter": {"type": word, **rank}}
    known = [policy.value for policy in Policy]
    if word not in known:
        raise typer.BadParameter(f"{text!r} is none of {', '.join([*known, *ADAPTERS])}")
    takes = POLICIES[Policy(word)].takes
    if (takes is not None) != bool(value):
        raise typer.BadParameter(f"{text!r}: write {word}{'=…' if takes else ''}")
    given: Any = value or True
    if takes is not None and word != Policy.LAYERS:
        given = _share(text, value) if word == Policy.TOP_SHARE else _number(text, value)
    return {"name": name, "selection": selection_of({word: given})}


def _number(text: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", value.strip()):  # isdigit would let ² pass
        raise typer.BadParameter(f"{text!r}: {value!r} is no whole number")
    return int(value)


def _share(text: str, value: str) -> float:
    try:
        return finite(value)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{text!r}: {error}; write a share as in top_share=0.8") from None


def compare(
    model: Model, dataset: Dataset, validation: Validation = None, columns: Columns = None,
    problem: ProblemName = None, labels: Labels = None, split_seed: SplitSeed = 0,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="A way to train, as often as wanted: top_k=2, last_k=2, layers=1,4, "
                     "all, head_only, lora=8, bitfit …"),
    ] = None,
    single_layers: Annotated[
        bool, typer.Option("--single-layers", help="Also each layer alone; judge every score.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0,1,2",
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    learning_rate: LearningRate = 5e-5,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_length: Annotated[int, typer.Option(min=4)] = 128,
    also_evaluate: AlsoEvaluate = None,
    url: Url = HOME, key: Key = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train MODEL on DATASET in several ways and seeds, and tell what the differences are worth."""
    body: Json = {
        "model": model, "arms": [arm_from(text) for text in arm or []],
        "single_layers": single_layers, "also_evaluate": also_evaluate or [],
        "seeds": [_number(seeds, part) for part in seeds.split(",")],
        "training": {
            "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
            "max_length": max_length,
        },
    }  # fmt: skip
    data = described(validation, columns, problem, labels, split_seed)
    with failing_plainly(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("comparisons", body), as_json=as_json)
