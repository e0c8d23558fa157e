"""`surgeon demo`: a tour of the service on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.commands.failures import require


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Data directory to use and keep; default: surgeon-data/demo-TIME."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=120, help="Number of sentences to generate.")] = 3000,
) -> None:
    """Rank and fine-tune a real encoder on a generated dataset. This takes some minutes."""
    require("server", "worker", "demo")
    from surgeon.demo import tour

    raise typer.Exit(tour.run(keep, rows))
