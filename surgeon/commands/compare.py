"""`surgeon compare`: compare several ways to train."""

from __future__ import annotations

import re
from typing import Any

import typer

from surgeon.client import Client
from surgeon.commands.datasets import dataset_of, file_options
from surgeon.commands.failures import expected_failures
from surgeon.commands.jobs import SUBMISSION_OPTIONS, follow
from surgeon.commands.options import (
    DEFAULT_URL,
    AsJson,
    Dataset,
    Json,
    Key,
    Model,
    Url,
    finite,
    selection_of,
    trials_of,
    values_of,
    with_options,
)
from surgery.data.options import DATASET_OPTIONS
from surgery.schemas.comparison import ComparisonSpec
from surgery.schemas.enums import POLICIES, Policy
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.training import TRIAL_OPTIONS, TrainingSpec

ADAPTERS = ("lora", "bitfit")
ARM = option_of(
    ComparisonSpec,
    "arms",
    repeated=True,
    name="arm",
    metavar="ARM",
    type=str,
    help="A way to train: top_k=2, last_k=2, layers=1,4, all, head_only, lora=8, bitfit …",
)
TRAINING_OPTIONS = options_of(TrainingSpec, "epochs", "learning_rate", "batch_size", "max_length")


def arm_from(text: str) -> Json:
    """Parse `top_k=2`, `layers=1,4`, `all`, `lora=8` or `bitfit` into an arm of that name.

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
    if not re.fullmatch(r"[0-9]{1,18}", value.strip()):  # isdigit would accept ²
        raise typer.BadParameter(f"{text!r}: {value!r} is no whole number")
    return int(value)


def _share(text: str, value: str) -> float:
    try:
        return finite(value)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{text!r}: {error}; write a share as in top_share=0.8") from None


@with_options(
    *DATASET_OPTIONS,
    ARM,
    *options_of(ComparisonSpec, "single_layers", "seeds"),
    *TRAINING_OPTIONS,
    *TRIAL_OPTIONS,
    option_of(ComparisonSpec, "also_evaluate", repeated=True, metavar="PRESET"),
    *SUBMISSION_OPTIONS,
)
def compare(
    model: Model,
    dataset: Dataset,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Train MODEL on DATASET in several ways with several seeds, and test their differences."""
    body: Json = {
        "model": model,
        "arms": [arm_from(text) for text in given["arm"] or []],
        "single_layers": given["single_layers"],
        "also_evaluate": given["also_evaluate"] or [],
        "seeds": [_number(given["seeds"], part) for part in given["seeds"].split(",")],
        "training": {**values_of(TRAINING_OPTIONS, given), **trials_of(given)},
        **values_of(SUBMISSION_OPTIONS, given),
    }
    data = file_options(given)
    with expected_failures(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("comparisons", body), as_json=as_json)
