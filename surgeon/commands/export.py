"""The command that hands a checkpoint's model over."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from surgeon.client import Client
from surgeon.commands.failures import expected_failures
from surgeon.commands.jobs import SUBMISSION_OPTIONS, follow
from surgeon.commands.options import (
    DEFAULT_URL,
    AsJson,
    Json,
    Key,
    Url,
    values_of,
    with_options,
)
from surgery.schemas.export import Destination, ExportRequest
from surgery.schemas.fields import options_of

EXPORT_OPTIONS = options_of(ExportRequest, "form")
PLACES = " or ".join(f"{each.value}:NAME" for each in Destination)


@with_options(*EXPORT_OPTIONS, *SUBMISSION_OPTIONS)
def export(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", help="Id of a checkpoint, of a fine-tune or of a comparison."
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="PLACE", help=f"Where to: {PLACES}.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Hand a checkpoint's model over: to a folder of the service's object store, or to MLflow.

    Of a fine-tune it is the best checkpoint, of a comparison the one that it decided for."""
    place, separator, target = to.partition(":")
    if not separator or place not in set(Destination):
        raise typer.BadParameter(f"{to!r} is not {PLACES}", param_hint="--to")
    body: Json = {
        "to": place,
        "target": target,
        **values_of(EXPORT_OPTIONS, given),
        **values_of(SUBMISSION_OPTIONS, given),
    }
    with expected_failures(), Client(url, key) as client:
        if not identifier.startswith("ck_"):
            identifier = client.best_checkpoint(identifier)
        job = client.submit(f"checkpoints/{identifier}/exports", body)
        follow(client, job, as_json=as_json)
