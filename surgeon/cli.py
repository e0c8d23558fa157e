"""The `surgeon` command."""

from __future__ import annotations

import typer

from surgeon.agents.command import mcp
from surgeon.commands import access, webhooks
from surgeon.commands.comparing.compare import compare
from surgeon.commands.datasets import datasets, upload
from surgeon.commands.demo import demo, example
from surgeon.commands.estimate import estimate
from surgeon.commands.export import export
from surgeon.commands.failures import EXIT_CODES, remember_command
from surgeon.commands.jobs import (
    download,
    jobs,
    logs,
    predict,
    queue,
    rank,
    search,
    tune,
    watch,
    workers,
)
from surgeon.commands.life import cancel, change, delete, pause, resume, retry
from surgeon.commands.server import api, db_check, db_upgrade, doctor, key, serve, worker
from surgery.schemas.enums import METHODS, described

app = typer.Typer(
    help="Rank an encoder's layers by Fisher information; fine-tune only the ones that matter.",
    no_args_is_help=True,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)
JOBS = (
    *(rank, search, tune, predict, export, upload, datasets, jobs, watch, logs, download),
    *(compare, estimate, demo),
)
EXAMPLES = (example,)
PLATFORM = (workers, queue)
LIFE = (cancel, pause, resume, retry, delete)
OPERATOR = (serve, api, worker, doctor, key)
AGENTS = (mcp,)
database = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(database, name="db")
database.command("upgrade")(db_upgrade)
database.command("check")(db_check)
hooks = typer.Typer(help="Webhooks, which are told of jobs.", no_args_is_help=True)
app.add_typer(hooks, name="webhooks")
hooks.command("create")(webhooks.create)
hooks.command("list")(webhooks.list_webhooks)
hooks.command("delete")(webhooks.delete)
hooks.command("test")(webhooks.send_test)
keys = typer.Typer(help="API keys of a running service.", no_args_is_help=True)
app.add_typer(keys, name="keys")
keys.command("create")(access.create_key)
keys.command("list")(access.list_keys)
keys.command("revoke")(access.revoke_key)
projects = typer.Typer(help="Projects, which keep what is theirs apart.", no_args_is_help=True)
app.add_typer(projects, name="projects")
projects.command("create")(access.create_project)
projects.command("list")(access.list_projects)
METHODS_HELP = f"Methods:\n{described(METHODS)}".replace("\n- ", "\n\n")  # one paragraph for each
for command in (*JOBS, *EXAMPLES, *LIFE, *PLATFORM, *OPERATOR, *AGENTS):
    app.command(epilog=METHODS_HELP if command is rank else None)(command)
app.command("set")(change)
app.callback()(remember_command)


def main() -> None:
    """The entry point of the console script."""
    app()
