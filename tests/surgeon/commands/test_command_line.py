"""What all commands have in common."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from surgeon.cli import app
from surgeon.commands.failures import ExitCode
from surgeon.terminal.progress import job_lines, transfer_lines

# These print a line or a path, or run until they are stopped.
WITHOUT_TABLES = {
    "api", "db upgrade", "delete", "demo", "download", "example", "key", "keys revoke", "mcp", "serve",
    "webhooks delete", "worker",
}  # fmt: skip


def commands(group: object, prefix: str = "") -> dict[str, set[str]]:
    """The options of every command, by its name."""
    found: dict[str, set[str]] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = {flag for each in command.params for flag in each.opts}
    return found


def test_every_command_that_prints_a_table_prints_json_too() -> None:
    found = commands(get_command(app))
    assert {name for name, options in found.items() if "--json" not in options} == WITHOUT_TABLES


def test_the_help_has_the_exit_codes_and_the_completion_of_shells() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    codes = re.findall(r"(?:: |; )(\d) ", text)
    assert codes == [str(code.value) for code in ExitCode]
    assert "--install-completion" in text


def test_without_a_terminal_a_job_has_a_line_for_each_phase_and_each_tenth() -> None:
    lines: list[str] = []
    on_update = job_lines(lines.append)
    for phase, percent in ((None, None), ("load", 0), ("score", 41), ("score", 44), ("score", 50)):
        progress = {"percent": percent, "step": 3, "total_steps": 8, "unit": "batches"}
        status = "running" if phase else "queued"
        on_update(
            {
                "id": "rk_1",
                "status": status,
                "terminal": False,
                "phase": phase,
                "progress": progress,
            }
        )
    on_update(
        {"id": "rk_1", "status": "succeeded", "terminal": True, "phase": None, "progress": None}
    )
    assert lines == [
        "rk_1: queued", "rk_1: load 0 % 3/8 batches", "rk_1: score 41 % 3/8 batches",
        "rk_1: score 50 % 3/8 batches", "rk_1: succeeded",
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "lines"), [(1000, 11), (3, 4), (0, 1)])
def test_a_transfer_has_a_line_for_each_tenth(size: int, lines: int) -> None:
    said: list[str] = []
    on_update = transfer_lines("ck_1", said.append)
    for done in range(size + 1):
        on_update(done, size)
    assert len(said) == lines
    assert said[-1].startswith("ck_1: 100 % of")
