"""The files of the production shape, read for the tests, and the settings they set."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from app.settings import Settings
from surgeon.cli import app as cli

ROOT = Path(__file__).resolve().parents[3]
API, WORKER = ROOT / "docker/api.Dockerfile", ROOT / "docker/worker.Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY", re.IGNORECASE)


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and their arguments, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    parts = [line.strip().partition(" ") for line in joined if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in parts]


def final_stage(path: Path) -> list[tuple[str, str]]:
    """The instructions that make the image that runs."""
    found = instructions(path)
    start = max(place for place, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def arguments(path: Path, word: str) -> list[str]:
    """What one instruction is given, in the final stage."""
    return [rest for found, rest in final_stage(path) if found == word]


def parse_command(words: list[str]) -> str:
    """The sub-command that a command line names; fails on any option it does not know."""
    assert words[0] == "surgeon"
    command: Any = get_command(cli)
    rest = words[1:]
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context("surgeon", rest).close()
    return str(command.name)


def variables() -> dict[str, str]:
    """Every setting's variable and its default, as the documentation writes it."""
    found = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, timedelta):
            text = f"{default.total_seconds():g}"
        elif isinstance(default, bool):
            text = str(default).lower()
        else:
            text = str(default) if default else "–"
        found[str(field.validation_alias or f"SURGEON_{name.upper()}")] = text
    return found
