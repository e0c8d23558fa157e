"""Shows the warnings of a result, with what to try in the options of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from surgery.schemas.head import HEAD_FIT
from surgery.schemas.ranking import RANKING_OPTIONS
from surgery.schemas.search import SEARCH_OPTIONS
from surgery.schemas.training import TRAINING_OPTIONS, TRIAL_OPTIONS

Json = Mapping[str, Any]
FIELD = re.compile(r"[a-z]+(?:[._][a-z0-9]+)+")  # a path, or a name of several words
FLAGS: dict[str, str] = {
    **{option.name: option.flag for option in (*RANKING_OPTIONS, *SEARCH_OPTIONS)},
    **{f"training.{option.name}": option.flag for option in (*TRAINING_OPTIONS, *TRIAL_OPTIONS)},
    "head.fit": HEAD_FIT.flag,
}


def warning_lines(result: Json) -> Iterator[Text]:
    """A line for each warning of a result."""
    for warning in result["warnings"]:
        yield Text(f"warning: {warning_text(warning)}", style="yellow")


def warning_text(warning: Json | str) -> str:
    """A warning in words; those of early versions are nothing else."""
    if isinstance(warning, str):
        return warning
    remedy = warning["remedy"]
    return f"{warning['message']}. Try this: {in_flags(remedy)}" if remedy else warning["message"]


def in_flags(remedy: str) -> str:
    """A remedy with each field of a request that has an option named by that.

    An arm has no options of its own, so that those of all arms take their place.
    """
    shared = re.sub(r"\barms\.\d+\.", "training.", remedy)
    return FIELD.sub(lambda field: FLAGS.get(field[0], field[0]), shared)
