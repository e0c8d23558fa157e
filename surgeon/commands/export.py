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
from surgery.schemas.fields import option_of, options_of
from surgery.schemas.jobs.export import Destination, ExportRequest

EXPORT_OPTIONS = (
    *options_of(ExportRequest, "form"),
    option_of(
        ExportRequest,
        "private",
        spelling="--public",
        help="For hub: publish in a public repository; without it, in a private one.",
    ),
    *options_of(ExportRequest, "revision", "message"),
)
DEFAULTS = {option.name: option.default for option in EXPORT_OPTIONS}
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
    """Hand a checkpoint's model over: to a folder of the object store, MLflow or the Hub.

    Of a fine-tune it is the best checkpoint, of a comparison the one that it decided for."""
    place, separator, target = to.partition(":")
    if not separator or place not in set(Destination):
        raise typer.BadParameter(f"{to!r} is not {PLACES}", param_hint="--to")
    chosen = values_of(EXPORT_OPTIONS, given)
    body: Json = {
        "to": place,
        "target": target,
        **{name: value for name, value in chosen.items() if value != DEFAULTS[name]},
        **values_of(SUBMISSION_OPTIONS, given),
    }
    with expected_failures(), Client(url, key) as client:
        if not identifier.startswith("ck_"):
            identifier = client.best_checkpoint(identifier)
        job = client.submit(f"checkpoints/{identifier}/exports", body)
        follow(client, job, as_json=as_json)
