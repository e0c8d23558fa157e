"""`surgeon demo`: a tour of the service on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.commands.failures import require


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Data directory; default: a new surgeon-data/demo-…"),
    ] = None,
    rows: Annotated[int, typer.Option(min=120, help="Rows to generate.")] = 3000,
) -> None:
    """Rank and fine-tune a real encoder on a generated dataset, in some minutes."""
    require("server", "worker", "demo")
    from surgeon.demo import tour

    raise typer.Exit(tour.run(keep, rows))
