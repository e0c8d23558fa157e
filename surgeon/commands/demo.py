"""`surgeon demo`, a tour of the service on this machine, and the files of the how-tos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.commands.failures import expected_failures, require
from surgeon.examples.files import EXAMPLES, write_example
from surgeon.terminal import terminal


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


def example(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(EXAMPLES)}.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="Where to write the files.")
    ] = Path(),
) -> None:
    """Write the files of one of the how-tos: rows to train on, and rows to validate with."""
    if name not in EXAMPLES:
        raise typer.BadParameter(f"no example is called {name}; there are {', '.join(EXAMPLES)}")
    with expected_failures():
        terminal.say(*map(str, write_example(name, folder)))
