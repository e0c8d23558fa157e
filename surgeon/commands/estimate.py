"""`surgeon estimate`: what fine-tunes would take."""

from __future__ import annotations

from typing import Any

import typer

from surgeon.client import Client
from surgeon.commands.datasets import Described, dataset_of
from surgeon.commands.failures import failing_plainly
from surgeon.commands.jobs import RANKING_ID
from surgeon.commands.options import (
    HOME,
    AsJson,
    Dataset,
    Json,
    Key,
    Model,
    Url,
    selection_of,
    taking,
    values_of,
)
from surgeon.terminal import terminal
from surgery.schemas.enums import POLICIES, Policy
from surgery.schemas.estimate import EstimateSpec
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.selection import OPTIONS, SELECTION_OPTIONS, SelectionSpec
from surgery.schemas.training import TrainingSpec

TRAINING_OPTIONS = (
    *options_of(TrainingSpec, "epochs", "batch_size", "max_length"),
    *options_of(SelectionSpec, "seed"),
)


@taking(
    *SELECTION_OPTIONS,
    RANKING_ID,
    option_of(SelectionSpec, "policy", default=None, help="Of --k: a *_k one."),
    option_of(EstimateSpec, "k", repeated=True, minimum=1),
    *TRAINING_OPTIONS,
)
def estimate(
    model: Model,
    dataset: Dataset,
    url: Url = HOME,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Estimate what fine-tunes of MODEL on DATASET would take: for every number of layers, for
    those of --k, or for the layers that one option of `tune` chooses."""
    chosen = values_of([*SELECTION_OPTIONS, RANKING_ID], given)
    body: Json = {
        "model": model,
        "training": values_of(TRAINING_OPTIONS, given),
        **_asked(chosen, given["seed"], given["policy"], given["k"]),
    }
    with failing_plainly(), Client(url, key) as client:
        body["dataset"] = dataset_of(client, dataset, Described())
        answer = client.call("POST", "/v1/estimates", json=body)
    if as_json:
        terminal.show_json(answer)
    else:
        terminal.show_estimate(answer)


def _asked(chosen: Json, seed: int, policy: Policy | None, k: list[int] | None) -> Json:
    """The selection and the numbers of layers to compare; neither for every number of layers."""
    if policy is not None and (k is None or POLICIES[policy].takes != "k"):
        raise typer.BadParameter(
            f"--policy goes with --k and is a *_k policy; else write {OPTIONS}"
        )
    given = {**chosen, "seed": seed}
    if k is not None:
        counted = policy or Policy.TOP_K
        if chosen[counted] is not None:
            raise typer.BadParameter(f"--k lists the numbers of --policy {counted.value}")
        return {"selection": selection_of({**given, counted: k[0]}), "k": k}
    said = any(value is not None and value is not False for value in chosen.values())
    return {"selection": selection_of(given)} if said else {}
