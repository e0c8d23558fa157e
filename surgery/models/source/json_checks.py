"""Read untrusted JSON within limits, and check what kind of value a key has.

A check takes a decoded value and tells whether it is of one kind. Except for plain text, which is
never opened as a file, none of them accepts a path: a `word` has no slash and no leading dot.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from surgery.errors import ModelUnsupported

Check = Callable[[Any], bool]
# Limits that no file of a model reaches, for small files (of at most SMALL_BYTES) and large ones.
# Each list, object and value takes time, in which the process does nothing else, and some 60 bytes.
SMALL_BYTES = 500_000
MAX_CONTAINERS = {"small": 30_000, "large": 1_000_000}
MAX_VALUES = {"small": 100_000, "large": 2_000_000}
MAX_TEXT = 10_000  # characters of a token or a name
WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+|\- ]{0,99}")


def read_object(raw: bytes, name: str, model: str) -> dict[str, Any]:
    """The JSON object in a file of a model. Raises ModelUnsupported, which names the file."""
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
    """Whether a value is an integer of at most 63 bits; true and false are not."""
    return type(value) is int and abs(value) < 1 << 63


def between(least: int, most: int) -> Check:
    """A check for an integer in a range, which includes its ends."""
    return lambda value: is_whole(value) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a number; floats must be finite (tokenizers write 1e30 for infinity)."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def is_flag(value: Any) -> bool:
    return type(value) is bool


def is_text(value: Any) -> bool:
    """Whether a value is text that is shown or looked up, and never opened as a file."""
    return type(value) is str and len(value) <= MAX_TEXT


def is_word(value: Any) -> bool:
    """Whether a value is a short name, such as that of an activation, and not a path."""
    return type(value) is str and WORD.fullmatch(value) is not None


def list_of(check: Check) -> Check:
    """A check for a list whose entries all pass ``check``."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def table_of(check: Check, key: Check = is_text) -> Check:
    """A check for an object whose keys and values all pass their checks."""
    return lambda value: (
        isinstance(value, dict) and all(map(key, value)) and all(map(check, value.values()))
    )


def any_of(*checks: Check) -> Check:
    """A check for a value that passes one of ``checks``."""
    return lambda value: any(check(value) for check in checks)


def pick(document: Mapping[str, Any], allowed: Mapping[str, Check], where: str) -> dict[str, Any]:
    """The allowed keys with their values, which must pass their checks or be null.

    ``where`` names the file and its model. Raises ModelUnsupported, which names the key whose value
    fails its check.
    """
    kept = {}
    for key, check in allowed.items():
        value = document.get(key)
        if value is not None and not check(value):
            raise ModelUnsupported(
                f"{where}: {key} is {_shown(value)}, which it cannot be; give it a value of the "
                "right kind and range or leave it out"
            )
        if key in document:
            kept[key] = value
    return kept


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if type(value) in (int, float):
        return str(value)[:60] if abs(value) < 1e60 else "a number that is too large"
    if isinstance(value, bool):
        return "true or false"
    return "a list" if isinstance(value, list) else "an object"
