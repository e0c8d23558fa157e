"""The `surgeon` command."""

from __future__ import annotations

import typer

from surgeon.commands.compare import compare
from surgeon.commands.demo import demo
from surgeon.commands.estimate import estimate
from surgeon.commands.jobs import client_commands
from surgeon.commands.server import db_upgrade, server_commands

app = typer.Typer(
    help="Rank an encoder's layers by Fisher information; fine-tune only the ones that matter.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
database = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(database, name="db")
database.command("upgrade")(db_upgrade)
for command in (*client_commands, compare, estimate, demo, *server_commands):
    app.command()(command)


def main() -> None:
    """Entry of the console script."""
    app()
