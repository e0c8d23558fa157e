"""The options of the command line that say what trains."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from surgery.errors import SurgeryError
from surgery.selection_options import selection_from
from surgery.terms import Granularity

Json = dict[str, Any]


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
