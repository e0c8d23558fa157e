"""A selection from the options of a command line, named after the policies. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import SurgeryError
from surgery.selection_spec import NEEDS
from surgery.terms import Policy

OPTIONS = ", ".join(f"--{policy.value.replace('_', '-')}" for policy in Policy)


def selection_from(given: Mapping[str, Any], default: Policy | None = None) -> dict[str, Any]:
    """The fields of a selection; ``default`` where no policy is given.

    ``given`` maps a policy to its number, to comma-separated names or indices for `layers`, or to
    a flag; beside them `granularity`, `include` (comma-separated) and `seed`. Raises SurgeryError
    unless exactly one policy is given.
    """
    told = {policy: given.get(policy) for policy in Policy}
    wanted = [policy for policy, value in told.items() if value is not None and value is not False]
    if not wanted and default is not None:
        wanted = [default]
    if len(wanted) != 1:
        raise SurgeryError(f"choose what trains with exactly one of {OPTIONS}")
    [policy] = wanted
    selection: dict[str, Any] = {"policy": policy.value}
    if policy in NEEDS:
        value = given[policy]
        selection[NEEDS[policy]] = _names(value) if policy is Policy.LAYERS else value
    if policy is Policy.RANDOM_K:
        selection["seed"] = given.get("seed", 0)
    if given.get("granularity") is not None:
        selection["granularity"] = str(given["granularity"])
    if given.get("include"):
        selection["include"] = [part.strip() for part in given["include"].split(",")]
    return selection


def _names(listed: str) -> list[str | int]:
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    # isdigit alone would let ² pass, and numbers too long to be read.
    digits = {part for part in parts if part.isascii() and part.isdigit() and len(part) <= 18}
    return [int(part) if part in digits else part for part in parts]
