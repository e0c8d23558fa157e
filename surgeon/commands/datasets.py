"""What a command makes of its dataset, and `surgeon upload`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon.client import Client
from surgeon.commands.failures import failing_plainly
from surgeon.commands.options import HOME, AsJson, Json, Key, Url, taking
from surgeon.terminal import terminal
from surgery.data.options import DATASET_OPTIONS, is_file, reference_of, upload_spec
from surgery.errors import SurgeryError


@dataclass(frozen=True)
class Described:
    """What the options say of a file."""

    validation: Path | None = None
    spec: Json | None = None


def described(given: Mapping[str, Any]) -> Described:
    """The options of a dataset, taken apart; typer.BadParameter where one cannot be."""
    validation: Path | None = given["validation"]
    if validation is not None and not is_file(validation):
        raise typer.BadParameter(f"--validation: there is no file {validation}")
    said = [given[name] for name in ("columns", "problem", "labels", "split_seed")]
    try:
        return Described(validation, upload_spec(*said))
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from None


def dataset_of(client: Client, given: str, described: Described) -> str | Json:
    """A file is uploaded and named by its id; anything else is the service's to know."""
    if is_file(given):
        return str(uploaded(client, Path(given), described)["id"])
    if described.validation is not None or described.spec:
        raise typer.BadParameter(
            "--validation, --columns, --problem, --labels and --split-seed go with a file as "
            f"DATASET, and there is no file {given}"
        )
    try:
        return reference_of(given)
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from None


def uploaded(client: Client, path: Path, described: Described) -> Json:
    """Upload a file; say on standard error what it was taken for."""
    found = client.upload(path, described.validation, json.dumps(described.spec or {}))
    rows, columns = found["rows"], found["columns"]
    parts = ", ".join(f"{part} {_joined(name)}" for part, name in columns.items() if name)
    inferred = f"; inferred: {', '.join(found['inferred'])}" if found["inferred"] else ""
    counts = f"{rows['train']:,} training and {rows['validation']:,} validation rows"
    lines = [
        f"uploaded {path.name} as {found['id']}: {counts}",
        f"{found['problem']} of {parts}{inferred}",
        *(f"warning: {warning}" for warning in found["warnings"]),
    ]
    for line in lines:
        terminal.errors.print(line, highlight=False, markup=False)
    return found


def _joined(column: str | list[str]) -> str:
    return column if isinstance(column, str) else ", ".join(column)


@taking(*DATASET_OPTIONS)
def upload(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", exists=True, dir_okay=False)],
    url: Url = HOME,
    key: Key = None,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Check a dataset and keep it; its id is printed, for DATASET of the other commands."""
    data = described(given)
    with failing_plainly(), Client(url, key) as client:
        found = uploaded(client, train, data)
    if as_json:
        terminal.show_json(found)
    else:
        terminal.console.out(found["id"], highlight=False)
