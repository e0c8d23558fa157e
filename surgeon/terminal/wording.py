"""Tells errors and warnings of the service as the command `surgeon` writes its requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from surgery.command_line.wording import Words, fault_lines
from surgery.evaluation.learning import OF_LEARNING
from surgery.schemas.jobs.ranking import RANKING_OPTIONS
from surgery.schemas.jobs.search import SEARCH_OPTIONS
from surgery.schemas.options.training import TRAINING_OPTIONS, TRIAL_OPTIONS

Json = Mapping[str, Any]
# Requests that messages name, and the commands that send them.
COMMANDS = (
    (r"GET /v1/(?:jobs|rankings|finetunes|searches|comparisons)(?= lists)", "`surgeon jobs`"),
    (r"GET /v1/(keys|projects|webhooks)(?= lists)", r"`surgeon \1 list`"),
    (r"GET /v1/datasets(?= lists)", "`surgeon datasets`"),
    (r"GET /v1/jobs/(\w+)(?= has it)", r"`surgeon watch \1`"),
    (r"POST /v1/jobs/(\w+)/(retry|resume)", r"`surgeon \2 \1`"),
    (r"POST /v1/datasets(?![/?])", "`surgeon upload`"),
)
PLAIN = Words(requests=COMMANDS)
"""The words of a command without options."""
_OF_JOBS = (*RANKING_OPTIONS, *SEARCH_OPTIONS, *TRAINING_OPTIONS, *TRIAL_OPTIONS)
OF_JOBS = Words({option.name: option.flag for option in _OF_JOBS}, requests=COMMANDS)
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
