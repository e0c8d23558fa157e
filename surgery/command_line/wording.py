"""Tells errors and remedies in the words of a command line: options in place of fields."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.command_line.options import columns_option
from surgery.errors import fault_line
from surgery.schemas.enums import Policy

Json = Mapping[str, Any]
# Fields that an option of another name sets, by their last two steps.
RENAMED = {
    "spec.seed": "split_seed",
    "selection.search": "search_id",
    "adapter.rank": "lora",
    "head.fit": "head_fit",
    "layer_schedule.layers": "lisa_layers",
    "layer_schedule.interval": "lisa_interval",
    "layer_schedule.every_epochs": "unfreeze_every_epochs",
    "layer_schedule.every_steps": "unfreeze_every_steps",
}
# Fields that several options describe, of which a command was given one.
DESCRIBED = {
    "policy": tuple(policy.value for policy in Policy),
    "adapter": ("lora", "bitfit"),
    "layer_schedule": tuple(
        name for path, name in RENAMED.items() if path.startswith("layer_schedule.")
    ),
}
_COLUMN = re.compile(r"columns\.(\w+)(?:, as in \{[^{}]*\})?")
_OBJECT = re.compile(r'\{"(\w+)": ("[^"{}]*"|[\w.]+)\}')
_OBJECTS = r"(?:[a-z_]+\.(?:\d+\.)?)"  # one that a field is in


@dataclass(frozen=True)
class Words:
    """How one command writes what a request has in its fields.

    ``options`` maps names to options, ``arguments`` names of fields to the metavars of arguments,
    and ``given`` are the options that were written. An option has the name of its field, or one of
    `RENAMED`. ``requests`` are patterns of requests that messages name, each with the command that
    sends it.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    given: Sequence[str] = ()
    requests: Sequence[tuple[str, str]] = ()

    def of(self, pointer: str) -> str | None:
        """The option or argument that sets the field at a JSON Pointer, if there is one."""
        steps = pointer.strip("/").split("/")
        while steps and steps[-1].isdigit():  # the option takes the whole list
            steps.pop()
        if steps[:1] == ["arms"]:  # one option describes a whole arm
            return self.options.get("arm")
        renamed = RENAMED.get(".".join(steps[-2:]), "")
        if renamed in self.options:
            return self.options[renamed]
        if steps[:1] == ["spec"] and len(steps) > 1:
            steps = steps[1:]
        if len(steps) == 2 and steps[0] == "columns" and "columns" in self.options:
            return f"{self.options['columns']} {steps[1]}=…"
        if not steps or any(step.isdigit() for step in steps):
            return None
        name = steps[-1]
        if len(steps) == 1 and name in self.arguments:
            return self.arguments[name]
        return self.options.get(name) or self._described(name) or self._number(steps)

    def _described(self, name: str) -> str | None:
        """The option that was given of those that describe a field together."""
        options = (self.options.get(each) for each in DESCRIBED.get(name, ()))
        return next((option for option in options if option in self.given), None)

    def _number(self, steps: Sequence[str]) -> str | None:
        """The option that was given for the number of a selection's policy."""
        if steps[:-1] not in ([], ["selection"]):  # checked by itself, it has no path
            return None
        ends = {"k": "-k", "share": "-share"}.get(steps[-1], f"--{steps[-1].replace('_', '-')}")
        return next((option for option in self.given if option.endswith(ends)), None)

    def _object(self, written: re.Match[str]) -> str:
        """A JSON object of one field as the option that sets it, if there is one."""
        option = self.options.get(written[1])
        return f"{option} {written[2]}" if option else written[0]

    def told(self, text: str) -> str:
        """A sentence of the service with options in place of dotted names of fields.

        An entry of a list, as an arm of a comparison, has the options of all entries.
        """
        if "columns" in self.options:
            text = _COLUMN.sub(rf"{self.options['columns']} \1=…", text)
        text = _OBJECT.sub(self._object, text)
        for path, name in RENAMED.items():
            if name in self.options:
                text = _renamed(text, rf"{_OBJECTS}*{re.escape(path)}", self.options[name])
        for name, option in self.options.items():
            # A name without an underscore may be a word of the sentence.
            bare = re.escape(name)
            path = rf"{_OBJECTS}+{bare}" + (rf"|{bare}" if "_" in name else "")
            text = _renamed(text, path, option)
        for request, command in self.requests:
            text = re.sub(request, command, text)
        return text


def _renamed(text: str, path: str, option: str) -> str:
    return re.sub(rf"(?<![\w./\"-])(?:{path})(?![\w/\"]|\.\w)", option, text)


def fault_lines(problem: Json, words: Words) -> Iterator[str]:
    """Each fault of an error in a command's words, and what to try where that is one option."""
    detail = str(problem.get("detail"))
    for fault in problem.get("errors") or []:
        pointer = fault.get("pointer") or ""
        named = words.of(pointer) if pointer else None
        yield words.told(fault_line({**fault, "pointer": named or pointer}, detail))
        # An option for a whole list, or a whole arm, does not take the value of an entry's field.
        whole = not any(step.isdigit() for step in pointer.split("/"))
        if fault.get("suggestion") is not None and named is not None and whole:
            yield f"  try: {_written(named, fault['suggestion'], words)}"


def _written(named: str, value: Any, words: Words) -> str:
    """A value as it is typed: an option with it, or an argument by itself."""
    shown = shlex.quote(_argument(value))
    return shown if named in words.arguments.values() else f"{named} {shown}"


def _argument(value: Any) -> str:
    """One value of an option; an object is columns by part."""
    return columns_option(value) if isinstance(value, dict) else str(value)
