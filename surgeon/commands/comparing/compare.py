"""`surgeon compare`: compare several ways to train."""

from __future__ import annotations

import re
from typing import Any

import typer

from surgeon.client import Client
from surgeon.commands.comparing.arms import GRAMMAR, OPTIONS, arm_from
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
    rate_of,
    rate_option,
    trials_of,
    values_of,
    with_options,
)
from surgery.command_line.options import DATASET_OPTIONS
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.jobs.comparison import ComparisonSpec
from surgery.schemas.options.training import TRIAL_OPTIONS, TrainingSpec

ARM = option_of(
    ComparisonSpec,
    "arms",
    repeated=True,
    name="arm",
    metavar=GRAMMAR,
    type=str,
    help="A way to train (top_k=2, last_k=2, layers=1,4, all, head_only, lora=8, bitfit …) and "
    f"what is its own: {', '.join(OPTIONS)}. As in top_k=2,method=tangent,learning_rate=1e-4.",
)
RATE = rate_option("The learning rate of every arm that names none.")
TRAINING_OPTIONS = options_of(TrainingSpec, "epochs", "batch_size", "max_length")


def _seed(listed: str, part: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", part.strip()):  # isdigit would accept ²
        raise typer.BadParameter(f"{listed!r}: {part!r} is no whole number")
    return int(part)


@with_options(
    *DATASET_OPTIONS,
    ARM,
    *options_of(ComparisonSpec, "single_layers", "seeds"),
    *TRAINING_OPTIONS,
    RATE,
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
        "seeds": [_seed(given["seeds"], part) for part in given["seeds"].split(",")],
        "training": {**values_of(TRAINING_OPTIONS, given), **rate_of(given), **trials_of(given)},
        **values_of(SUBMISSION_OPTIONS, given),
    }
    data = file_options(given)
    with expected_failures(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, data)
        follow(client, client.submit("comparisons", body), as_json=as_json)
