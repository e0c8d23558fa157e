"""Tells errors, warnings and remedies of the service in the words of the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from surgery.data.options import columns_option
from surgery.errors import fault_line
from surgery.evaluation.learning import OF_LEARNING
from surgery.schemas.jobs.ranking import RANKING_OPTIONS
from surgery.schemas.jobs.search import SEARCH_OPTIONS
from surgery.schemas.options.head import HEAD_FIT
from surgery.schemas.options.training import TRAINING_OPTIONS, TRIAL_OPTIONS

Json = Mapping[str, Any]
_RENAMED = {
    "/spec/seed": "split_seed", "/selection/search": "search_id", "/adapter/rank": "lora",
}  # fmt: skip
# Requests that messages name, and the commands that send them.
_COMMANDS = (
    (r"GET /v1/(?:jobs|rankings|finetunes|searches|comparisons)(?= lists)", "`surgeon jobs`"),
    (r"GET /v1/(keys|projects|webhooks)(?= lists)", r"`surgeon \1 list`"),
    (r"GET /v1/datasets(?= lists)", "`surgeon datasets`"),
    (r"GET /v1/jobs/(\w+)(?= has it)", r"`surgeon watch \1`"),
    (r"POST /v1/jobs/(\w+)/(retry|resume)", r"`surgeon \2 \1`"),
    (r"POST /v1/datasets(?![/?])", "`surgeon upload`"),
)
_COLUMN = re.compile(r"columns\.(\w+)(?:, as in \{[^{}]*\})?")
_OBJECT = re.compile(r'\{"(\w+)": ("[^"{}]*"|[\w.]+)\}')


@dataclass(frozen=True)
class Words:
    """How one command writes what a request has in its fields.

    ``options`` maps the names of fields to options, ``arguments`` to the metavars of arguments,
    and ``given`` are the options that were written.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    given: Sequence[str] = ()

    def of(self, pointer: str) -> str | None:
        """The option or argument that sets the field at a JSON Pointer, if there is one."""
        steps = pointer.strip("/").split("/")
        while steps and steps[-1].isdigit():  # the option takes the whole list
            steps.pop()
        if steps[:1] == ["arms"]:  # one option describes a whole arm
            return self.options.get("arm")
        if steps[:1] == ["spec"] and len(steps) > 1:
            steps = steps[1:]
        if len(steps) == 2 and steps[0] == "columns" and "columns" in self.options:
            return f"{self.options['columns']} {steps[1]}=…"
        if not steps or any(step.isdigit() for step in steps):
            return None
        name = _RENAMED.get(pointer, steps[-1])
        if len(steps) == 1 and name in self.arguments:
            return self.arguments[name]
        return self.options.get(name) or self._policy(steps)

    def _policy(self, steps: Sequence[str]) -> str | None:
        """The option that was given for the number of a selection's policy."""
        if len(steps) != 2 or steps[0] != "selection":
            return None
        ends = {"k": "-k", "share": "-share"}.get(steps[1], f"--{steps[1].replace('_', '-')}")
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
        for name, option in self.options.items():
            # A name without an underscore may be a word of the sentence.
            bare = re.escape(name)
            path = rf"(?:[a-z_]+\.(?:\d+\.)?)+{bare}" + (rf"|{bare}" if "_" in name else "")
            text = re.sub(rf"(?<![\w./\"-])(?:{path})(?![\w/\"]|\.\w)", option, text)
        for request, command in _COMMANDS:
            text = re.sub(request, command, text)
        return text


_OF_JOBS = (*RANKING_OPTIONS, *SEARCH_OPTIONS, *TRAINING_OPTIONS, *TRIAL_OPTIONS)
OF_JOBS = Words({**{option.name: option.flag for option in _OF_JOBS}, "fit": HEAD_FIT.flag})
"""The options of all commands that submit jobs, for what a job's result says to try."""


def warning_lines(warnings: Sequence[Json | str]) -> Iterator[Text]:
    """A line for each warning of a job or of its result, the gravest last.

    That is where nothing was learned: what ends an output is read.
    """
    for warning in sorted(warnings, key=_gravity):
        yield Text(f"warning: {warning_text(warning)}", style="yellow")


def _gravity(warning: Json | str) -> int:
    code = None if isinstance(warning, str) else warning["code"]
    return len(OF_LEARNING) - OF_LEARNING.index(code) if code in OF_LEARNING else 0


def warning_text(warning: Json | str) -> str:
    """A warning in words; those of early versions are nothing else."""
    if isinstance(warning, str):
        return warning
    message, remedy = warning["message"], warning["remedy"]
    return f"{message}. Try this: {OF_JOBS.told(remedy)}" if remedy else message


def problem_lines(problem: Json, words: Words) -> Iterator[str]:
    """An error in a command's words: what is wrong, each fault, and what to try."""
    detail = str(problem.get("detail"))
    yield f"{problem.get('title', 'Error')} ({problem.get('code')}): {words.told(detail)}"
    yield from fault_lines(problem, words)


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
