"""Shows what to do after a job: the requests that its answer names, as commands to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from surgeon.terminal.results.arms import NoCommand, arm_text, listed, policy_words
from surgery.schemas.options.adapter import AdapterSpec

Json = Mapping[str, Any]
COMMANDS = {"/v1/finetunes": "tune", "/v1/searches": "search", "/v1/comparisons": "compare"}
# The fields of a request that an option sets, and those of its training by command.
OPTIONS = {"families", "learning_rates", "budget_seconds", "budget_share", "confidence", "held_out"}
OPTIONS |= {"seed", "seeds"}
RANK = AdapterSpec.model_fields["rank"].default
OF_TRAINING = {
    "search": {"epochs", "batch_size", "max_length"},
    "compare": {"epochs", "batch_size", "max_length", "learning_rate", "learning_rates"},
    "tune": {"epochs", "batch_size", "max_length", "learning_rate", "learning_rates", "seed"},
}


def step_lines(steps: Sequence[Json], width: int) -> Iterator[str]:
    """Each step: why, and below it the command, or the request where no command sends it.

    A command that is wider than ``width`` goes on in further lines, as a shell reads it.
    """
    for step in steps:
        yield f"next: {step['why']}"
        try:
            yield from _folded(_units(command_of(step)), width)
        except NoCommand:
            yield f"  {step['method']} {step['path']} {json.dumps(step['body'])}"


def _units(words: Sequence[str]) -> list[str]:
    """The words as a shell reads them, each option with its value."""
    units: list[str] = []
    for word in words:
        if units and units[-1].startswith("--") and " " not in units[-1] and word[:2] != "--":
            units[-1] += f" {shlex.quote(word)}"
        else:
            units.append(shlex.quote(word))
    return units


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
    """The words of the command that sends the request of a step. Raises NoCommand.

    What only the caller knows, as the folder of a download, is in capitals.
    """
    path, body = step["path"], step["body"]
    parts = urlsplit(path).path.split("/")
    if path.endswith("/retry"):
        return ["surgeon", "retry", parts[-2]]
    if parts[-1] == "archive":
        query = [word for name, value in _query(path) for word in (f"--{name}", value)]
        return ["surgeon", "download", parts[-2], "DIR", *query]
    if path == "/v1/datasets":
        return ["surgeon", "upload", "TRAIN_FILE", "--validation", "VALIDATION_FILE"]
    if path not in COMMANDS:
        raise NoCommand
    command = COMMANDS[path]
    words = ["surgeon", command, body["model"], _text(body["dataset"])]
    for name, value in body.items():
        if name == "checkpoints" and command != "tune":
            raise NoCommand
        if name == "training":
            words += _training(value, OF_TRAINING[command])
        elif name not in {"model", "dataset"}:
            words += _field(name, value)
    return words


def _query(path: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(path).query)


def _field(name: str, value: Any) -> list[str]:
    """The options that set one field of a request."""
    write = _WRITERS.get(name)
    return write(value) if write else _option(name, value, OPTIONS)


def _arms(arms: Sequence[Json]) -> list[str]:
    return [word for arm in arms for word in ("--arm", arm_text(arm))]


def _training(training: Json, known: set[str]) -> list[str]:
    words: list[str] = []
    for name, value in training.items():
        of_head = name == "head"
        words += ["--head-fit", _only("fit", value)] if of_head else _option(name, value, known)
    return words


def _only(name: str, value: Json) -> str:
    """The value of an object's field, if the request sets no other one. Raises NoCommand."""
    if set(value) != {name}:
        raise NoCommand
    return str(value[name])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _option(name: str, value: Any, known: set[str]) -> list[str]:
    if name not in known or isinstance(value, dict):
        raise NoCommand
    return [_flag(name), _text(value)]


def _selection(selection: Json) -> list[str]:
    """The options of a selection: that of its policy, and those of its other fields."""
    [policy, *value], others = policy_words(selection)
    words = [_flag(policy), *value]
    for name, given in others.items():
        if name not in {"ranking", "search", "granularity", "include"} or isinstance(given, dict):
            raise NoCommand
        words += ["--search-id" if name == "search" else _flag(name), _text(given)]
    return words


def _adapter(adapter: Json) -> list[str]:
    """The option of an adapter. Raises NoCommand for what only an arm's options set."""
    if set(adapter) - {"type", "rank"}:
        raise NoCommand
    if adapter["type"] == "bitfit":
        return ["--bitfit"]
    return ["--lora", str(adapter.get("rank", RANK))]


_WRITERS: Mapping[str, Callable[[Any], list[str]]] = {
    "selection": _selection,
    "adapter": _adapter,
    "arms": _arms,
    "checkpoints": lambda kept: ["--form", _only("form", kept)],
    "also_evaluate": lambda presets: [w for preset in presets for w in ("--also-evaluate", preset)],
    "single_layers": lambda _: ["--single-layers"],
    "track_ranking": lambda _: ["--track-ranking"],
}


def _text(value: Any) -> str:
    """A value as an option takes it: lists with commas, a dataset of the Hub as JSON."""
    if isinstance(value, dict):
        return json.dumps({name: each for name, each in value.items() if each is not None})
    return listed(value)
