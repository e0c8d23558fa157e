"""How other tools write a choice of layers or of their parts. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from surgery.errors import Fault, SelectionEmpty, SelectionMismatch
from surgery.parts import ATTENTION, SUBLAYERS
from surgery.results import LayerInfo
from surgery.terms import Granularity

Format = Literal["json", "regex", "peft", "axolotl"]


def selection_view(
    layers: Sequence[LayerInfo], form: Format, granularity: Granularity = Granularity.LAYER
) -> dict[str, Any]:
    """The choice as a regular expression, a PEFT or an Axolotl setting, or plain JSON.

    Raises SelectionEmpty where nothing is chosen, and SelectionMismatch for a choice that PEFT's
    setting cannot express.
    """
    names = [layer.name for layer in layers]
    if not layers and form != "json":
        raise SelectionEmpty(f"no layer is selected: there is nothing to write as {form}")
    if form == "regex":
        return {"regex": _pattern(names, granularity)}
    if form == "peft":
        return _peft(names, granularity)
    if form == "axolotl":
        return {"unfrozen_parameters": [_axolotl(_pattern([n], granularity)) for n in names]}
    return {"layers": [layer.model_dump() for layer in layers]}


def _pattern(names: Sequence[str], granularity: Granularity) -> str:
    """Matches the parameters of exactly these: ``layer.1`` is not ``layer.11``."""
    if granularity is Granularity.LAYER:
        return rf"^(?:.*\.)?(?:{_any(names)})\."
    if granularity is Granularity.TENSOR:
        return rf"^(?:.*\.)?(?:{_any(names)})$"
    held = {part: [n.removesuffix(f".{part}") for n in names if n.endswith(f".{part}")]
            for part in SUBLAYERS}  # fmt: skip
    looks = {"attention": f"(?={ATTENTION})", "feed_forward": f"(?!{ATTENTION})"}
    inner = "|".join(rf"(?:{_any(held[p])})\.{looks[p]}" for p in SUBLAYERS if held[p])
    return rf"^(?:.*\.)?(?:{inner})"


def _axolotl(pattern: str) -> str:
    """As Axolotl reads it: it escapes every dot itself, but for that of ``.+``."""
    return pattern.replace(".*", ".+").replace(r"\.", ".")


def _any(names: Sequence[str]) -> str:
    return "|".join(re.escape(name) for name in names)


def _peft(names: Sequence[str], granularity: Granularity) -> dict[str, Any]:
    """``LoraConfig(**this)`` adapts these layers only."""
    pointer = "/format"
    if granularity is not Granularity.LAYER:
        raise SelectionMismatch(
            f"PEFT's layers_to_transform names whole layers, and the ranking is of {granularity}s",
            [Fault("use regex, or a ranking of layers", pointer=pointer)],
        )
    lists = {name.rpartition(".")[0] for name in names}
    if len(lists) > 1:
        raise SelectionMismatch(
            "PEFT's layers_to_transform names layers of one list, and this model has several: "
            + ", ".join(sorted(lists)),
            [Fault("use regex", pointer=pointer)],
        )
    return {
        "layers_to_transform": [int(name.rpartition(".")[2]) for name in names],
        "layers_pattern": _list_pattern(lists.pop()),
    }


def _list_pattern(name: str) -> str:
    """The last name of a list's path, and all from before its first index where it has one.

    Among ALBERT's groups each has a list of the same last name. PEFT wants a name before the
    pattern, which a path without the task model's prefix must not use up.
    """
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[first - 1 :])
