"""`surgeon estimate`: the memory and time that fine-tunes would take."""

from __future__ import annotations

from typing import Any

import typer

from surgeon.client import Client
from surgeon.commands.datasets import FileOptions, dataset_of
from surgeon.commands.failures import expected_failures
from surgeon.commands.jobs import RANKING_ID, SEARCH_ID
from surgeon.commands.options import (
    DEFAULT_URL,
    AsJson,
    Dataset,
    Json,
    Key,
    Model,
    Url,
    selection_of,
    trained_of,
    trials_of,
    values_of,
    with_options,
)
from surgeon.terminal import terminal
from surgery.schemas.enums import POLICIES, Policy
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.jobs.estimate import EstimateSpec
from surgery.schemas.jobs.selection import OPTIONS, SELECTION_OPTIONS, SelectionSpec
from surgery.schemas.options.adapter import ADAPTER_OPTIONS
from surgery.schemas.options.training import TRIAL_OPTIONS, TrainingSpec

TRAINING_OPTIONS = (
    *options_of(TrainingSpec, "epochs", "batch_size", "max_length"),
    *options_of(SelectionSpec, "seed"),
)


@with_options(
    *SELECTION_OPTIONS,
    RANKING_ID,
    SEARCH_ID,
    *ADAPTER_OPTIONS,
    option_of(
        SelectionSpec, "policy", default=None, help="A policy that takes --k: its name ends in _k."
    ),
    option_of(EstimateSpec, "k", repeated=True, minimum=1),
    *TRAINING_OPTIONS,
    *TRIAL_OPTIONS,
)
def estimate(
    model: Model,
    dataset: Dataset,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Estimate the memory and time of fine-tuning MODEL on DATASET: for every number of layers, for
    the numbers that --k lists, or for the layers that one option of `tune` chooses."""
    chosen = values_of([*SELECTION_OPTIONS, RANKING_ID, SEARCH_ID, *ADAPTER_OPTIONS], given)
    body: Json = {
        "model": model,
        "training": {**values_of(TRAINING_OPTIONS, given), **trials_of(given)},
        **_selection_and_k(chosen, given["seed"], given["policy"], given["k"]),
    }
    with expected_failures(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, FileOptions())
        answer = client.call("POST", "/v1/estimates", json=body)
    if as_json:
        terminal.show_json(answer)
    else:
        terminal.show_estimate(answer)


def _selection_and_k(chosen: Json, seed: int, policy: Policy | None, k: list[int] | None) -> Json:
    """The fields ``selection`` and ``k`` of the request. Without them it is for every number."""
    if policy is not None and (k is None or POLICIES[policy].takes != "k"):
        raise typer.BadParameter(
            f"--policy needs --k and a policy whose name ends in _k; otherwise write {OPTIONS}"
        )
    given = {**chosen, "seed": seed}
    if k is not None:
        counted = policy or Policy.TOP_K
        if given["lora"] is not None or given["bitfit"]:
            raise typer.BadParameter("--k lists numbers of layers, and an adapter trains none")
        if chosen[counted] is not None:
            raise typer.BadParameter(f"--k lists the numbers of --policy {counted.value}")
        return {"selection": selection_of({**given, counted: k[0]}), "k": k}
    is_chosen = any(value is not None and value is not False for value in chosen.values())
    return trained_of(given) if is_chosen else {}
