"""Options that commands share: what trains, and what a dataset is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon.client import Client
from surgeon.terminal import terminal
from surgery.data.options import (
    COLUMNS_HELP,
    LABELS_HELP,
    SPLIT_SEED_HELP,
    is_file,
    reference_of,
    upload_spec,
)
from surgery.errors import SurgeryError
from surgery.schemas.enums import Granularity, Problem
from surgery.schemas.selection import selection_from

Json = dict[str, Any]
Dataset = Annotated[
    str,
    typer.Argument(
        help="A preset (glue/cola), a dataset's id, a file to upload, or a Hub reference in JSON."
    ),
]
# The rest goes with a file.
Validation = Annotated[Path | None, typer.Option(help="Validation file.")]
Columns = Annotated[str | None, typer.Option(metavar="PART=COLUMN,…", help=COLUMNS_HELP)]
ProblemName = Annotated[Problem | None, typer.Option(help="Inferred where left out.")]
Labels = Annotated[str | None, typer.Option(metavar="NAME,…", help=LABELS_HELP)]
SplitSeed = Annotated[int, typer.Option(help=SPLIT_SEED_HELP)]


def finite(text: str) -> float:
    """A number, not NaN nor infinite, which JSON cannot say. Raises BadParameter."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is no number")
    return value


TopK = Annotated[int | None, typer.Option(min=1, help="The best of a ranking.")]
TopShare = Annotated[
    float | None,
    typer.Option(
        parser=finite, metavar="FLOAT", help="The fewest that hold this share of the total score."
    ),
]
MaxParameters = Annotated[
    int | None, typer.Option(min=1, help="Down the ranking, all that fits, beside the head.")
]
BottomK = Annotated[int | None, typer.Option(min=1, help="The worst of a ranking.")]
FirstK = Annotated[int | None, typer.Option(min=1, help="The lowest.")]
LastK = Annotated[int | None, typer.Option(min=1, help="The highest.")]
RandomK = Annotated[int | None, typer.Option(min=1, help="Drawn by --seed.")]
Layers = Annotated[str | None, typer.Option(help="Names or indices, comma-separated.")]
AllLayers = Annotated[bool, typer.Option("--all", help="Every layer.")]
HeadOnly = Annotated[bool, typer.Option("--head-only", help="No layer.")]
Chosen = Annotated[
    Granularity | None, typer.Option(help="What is chosen. Default: as the ranking, or layers.")
]
Include = Annotated[str | None, typer.Option(help="Also train embeddings,pooler.")]
Ranking = Annotated[str | None, typer.Option(help="Its id, for scores to choose by.")]
LearningRate = Annotated[float, typer.Option(parser=finite, metavar="FLOAT")]


def selection_of(given: Json) -> Json:
    """The selection of these options; typer.BadParameter unless they say one policy.

    ``given`` is what ``selection_from`` takes, with the id of a ``ranking``.
    """
    try:
        selection = selection_from(given)
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from error
    ranking = given.get("ranking")
    return selection if ranking is None else {**selection, "ranking": ranking}


@dataclass(frozen=True)
class Described:
    """What the options say of a file."""

    validation: Path | None
    spec: Json


def described(
    validation: Path | None,
    columns: str | None,
    problem: Problem | None,
    labels: str | None,
    split_seed: int,
) -> Described:
    """The options, taken apart; typer.BadParameter where one cannot be."""
    if validation is not None and not is_file(validation):
        raise typer.BadParameter(f"--validation: there is no file {validation}")
    try:
        return Described(validation, upload_spec(columns, problem, labels, split_seed))
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
    found = client.upload(path, described.validation, json.dumps(described.spec))
    rows, columns = found["rows"], found["columns"]
    parts = ", ".join(f"{part} {_named(name)}" for part, name in columns.items() if name)
    inferred = f"; inferred: {', '.join(found['inferred'])}" if found["inferred"] else ""
    terminal.errors.print(
        f"uploaded {path.name} as {found['id']}: {rows['train']:,} training and "
        f"{rows['validation']:,} validation rows", highlight=False, markup=False,
    )  # fmt: skip
    terminal.errors.print(f"{found['problem']} of {parts}{inferred}", highlight=False, markup=False)
    for warning in found["warnings"]:
        terminal.errors.print(f"warning: {warning}", highlight=False, markup=False)
    return found


def _named(column: str | list[str]) -> str:
    return column if isinstance(column, str) else ", ".join(column)
