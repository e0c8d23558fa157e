"""Writes an arm of a comparison as `surgeon compare --arm` reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from surgery.schemas.enums import POLICIES, Policy

Json = Mapping[str, Any]
OWN = {"learning_rate", "learning_rates"}
OF_SELECTIONS = {"ranking", "search", "granularity", "include", "seed"}
OF_ADAPTERS = {"alpha", "dropout"}


class NoCommand(Exception):
    """The request has a field that no option sets."""


def arm_text(arm: Json) -> str:
    """`[NAME:]WAY[,OPTION=VALUE]…` of an arm. Raises NoCommand.

    The name is left out where the command would make the same one of the rest.
    """
    way, others = _way(arm)
    given = {**others, **{name: arm[name] for name in arm if name in OWN}}
    if set(arm) - OWN - {"name", "selection", "adapter"}:
        raise NoCommand
    options = dict(_option(name, value) for name, value in given.items())
    text = ",".join([way, *(f"{name}={listed(value)}" for name, value in options.items())])
    made = "-".join(map(_plain, [way.replace("=", " "), *map(listed, options.values())]))
    return text if arm["name"] == made else f"{arm['name']}:{text}"


def _option(name: str, value: Any) -> tuple[str, Any]:
    """An option that sets a field. Of a ranking to compute first only the method can be set."""
    if not isinstance(value, dict):
        return name, value
    if name == "ranking" and set(value) == {"method"}:
        return "method", value["method"]
    raise NoCommand


def _way(arm: Json) -> tuple[str, dict[str, Any]]:
    """What an arm trains as the option writes it, and the other fields of that."""
    if "adapter" in arm:
        others = {name: value for name, value in arm["adapter"].items() if name in OF_ADAPTERS}
        rank = arm["adapter"].get("rank")
        return arm["adapter"]["type"] + (f"={rank}" if rank is not None else ""), others
    words, others = policy_words(arm["selection"])
    if set(others) - OF_SELECTIONS:
        raise NoCommand
    return "=".join(words), others


def policy_words(selection: Json) -> tuple[list[str], dict[str, Any]]:
    """The policy of a selection and the value that it takes, if any, and the other fields."""
    policy = str(selection["policy"])
    takes = POLICIES[Policy(policy)].takes
    others = {name: value for name, value in selection.items() if name not in {"policy", takes}}
    return [policy, *([listed(selection[takes])] if takes else [])], others


def listed(value: Any) -> str:
    """A value as an option takes it: lists with commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(words: str) -> str:
    """Words as the command makes a part of a name of them."""
    return re.sub(r"[^\w.]+", "-", words.strip()).strip("-")
