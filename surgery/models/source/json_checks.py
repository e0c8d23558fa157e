"""Read a stranger's JSON within limits, and say what kind of value a key may hold. Torch-free.

A check takes a decoded value and tells whether it is of its kind. None of them lets a path through
that is not simply text for a reader: a `word` has no slash and no dot of its own at the start.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from surgery.errors import ModelUnsupported

Check = Callable[[Any], bool]
# More lists, objects and values than a file of a model has, small (up to so many bytes) or large.
# Each takes time, in which nothing else of the process runs, and some 60 bytes.
SMALL_BYTES = 500_000
MAX_CONTAINERS = {"small": 30_000, "large": 1_000_000}
MAX_VALUES = {"small": 100_000, "large": 2_000_000}
MAX_TEXT = 10_000  # characters of a token or a name
WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+|\- ]{0,99}")


def read_object(raw: bytes, name: str, model: str) -> dict[str, Any]:
    """The JSON object in a file of a model. Raises ModelUnsupported, naming the file."""
    size = "small" if len(raw) <= SMALL_BYTES else "large"
    containers, values = raw.count(b"[") + raw.count(b"{"), raw.count(b",")
    if containers > MAX_CONTAINERS[size] or values > MAX_VALUES[size]:
        raise ModelUnsupported(f"{name} of {model!r} holds more values than any such file needs")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise ModelUnsupported(f"{name} of {model!r} is not JSON") from None
    if not isinstance(document, dict):
        raise ModelUnsupported(f"{name} of {model!r} must hold one JSON object")
    return document


def is_whole(value: Any) -> bool:
    """A whole number of at most 63 bits; true and false are none."""
    return type(value) is int and abs(value) < 1 << 63


def between(least: int, most: int) -> Check:
    """A whole number in a range, its ends included."""
    return lambda value: is_whole(value) and least <= value <= most


def is_number(value: Any) -> bool:
    """A finite number, or one so large that it stands for none: tokenizers write 1e30."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def is_flag(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def is_text(value: Any) -> bool:
    """Text that is shown or looked up, and never opened."""
    return type(value) is str and len(value) <= MAX_TEXT


def is_word(value: Any) -> bool:
    """A short name, such as that of an activation: no path."""
    return type(value) is str and WORD.fullmatch(value) is not None


def list_of(check: Check) -> Check:
    """A list whose entries all pass a check."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def table_of(check: Check, key: Check = is_text) -> Check:
    """An object whose keys and values all pass a check."""
    return lambda value: (
        isinstance(value, dict) and all(map(key, value)) and all(map(check, value.values()))
    )


def any_of(*checks: Check) -> Check:
    """A value that passes one of some checks."""
    return lambda value: any(check(value) for check in checks)


def pick(document: Mapping[str, Any], allowed: Mapping[str, Check], where: str) -> dict[str, Any]:
    """The keys that are allowed, each of its kind or null; all others are left out.

    ``where`` names the file and its model. Raises ModelUnsupported, naming the key whose value is
    of another kind.
    """
    kept = {}
    for key, check in allowed.items():
        value = document.get(key)
        if value is not None and not check(value):
            raise ModelUnsupported(
                f"{where}: {key} is {_shown(value)}, which it cannot be; give it a value of its "
                "own kind and range or leave it out"
            )
        if key in document:
            kept[key] = value
    return kept


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if type(value) in (int, float):
        return str(value)[:60] if abs(value) < 1e60 else "a number past all bounds"
    if isinstance(value, bool):
        return "true or false"
    return "a list" if isinstance(value, list) else "an object"
