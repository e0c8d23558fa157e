"""Shows what to do after a job: the requests that its answer names, as commands to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
COMMANDS = {"/v1/finetunes": "tune", "/v1/searches": "search", "/v1/comparisons": "compare"}
# The fields of a request that an option sets, and those of its training.
OPTIONS = {"families", "learning_rates", "budget_seconds", "budget_share", "confidence", "held_out"}
OPTIONS |= {"seed", "seeds"}
OF_TRAINING = {"epochs", "learning_rate", "learning_rates", "batch_size", "max_length", "seed"}
TAKES = {"top_k": "k", "last_k": "k", "first_k": "k", "layers": "layers", "all": None}


class NoCommand(Exception):
    """The request has a field that no option sets."""


def step_lines(steps: Sequence[Json], width: int) -> Iterator[str]:
    """Each step: why, and below it the command, or the request where no command sends it.

    A command that is wider than ``width`` goes on in further lines, as a shell reads it.
    """
    for step in steps:
        yield f"next: {step['why']}"
        try:
            yield from _folded([shlex.quote(word) for word in command_of(step)], width)
        except NoCommand:
            yield f"  {step['method']} {step['path']} {json.dumps(step['body'])}"


def _folded(words: Sequence[str], width: int) -> Iterator[str]:
    line = f"  {words[0]}"
    for word in words[1:]:
        if len(line) + len(word) + len("  \\") > width:
            yield f"{line} \\"
            line = f"    {word}"
        else:
            line += f" {word}"
    yield line


def command_of(step: Json) -> list[str]:
    """The words of the command that sends the request of a step. Raises NoCommand."""
    path, body = step["path"], step["body"]
    if path.endswith("/retry"):
        return ["surgeon", "retry", path.split("/")[-2]]
    if path not in COMMANDS:
        raise NoCommand
    words = ["surgeon", COMMANDS[path], body["model"], _text(body["dataset"])]
    for name, value in body.items():
        if name not in {"model", "dataset"}:
            words += _field(name, value)
    return words


def _field(name: str, value: Any) -> list[str]:
    """The options that set one field of a request."""
    if name == "selection":
        return _selection(value)
    if name == "arms":
        return [word for arm in value for word in ("--arm", _arm(arm))]
    if name == "training":
        return [word for field in value for word in _option(field, value[field], OF_TRAINING)]
    return _option(name, value, OPTIONS)


def _option(name: str, value: Any, known: set[str]) -> list[str]:
    if name not in known or isinstance(value, dict):
        raise NoCommand
    return [f"--{name.replace('_', '-')}", _text(value)]


def _selection(selection: Json) -> list[str]:
    policy = selection["policy"]
    if policy == "search":
        return ["--search", "--search-id", selection["search"]]
    words = [f"--{policy.replace('_', '-')}", str(selection["k"])]
    return [*words, "--ranking", selection["ranking"]] if "ranking" in selection else words


def _arm(arm: Json) -> str:
    selection = arm["selection"]
    policy = str(selection["policy"])
    takes = TAKES[policy]
    return policy + (f"={_text(selection[takes])}" if takes else "")


def _text(value: Any) -> str:
    """A value as an option takes it: lists with commas, a dataset of the Hub as JSON."""
    if isinstance(value, dict):
        return json.dumps({name: each for name, each in value.items() if each is not None})
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
