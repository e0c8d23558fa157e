"""Reads the JSON of a request: strictly, as RFC 8259 has it, and only what a database can store."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from surgery.errors import MAX_FAULTS
from surgery.schemas.validation import pointer_step

MAX_DEPTH = 64  # objects and lists inside each other; no request needs more than ten
LARGEST = (1 << 63) - 1  # of the integers that both databases and JSON's other readers agree on
_LONGEST_INTEGER = 4000  # Python refuses to read much longer ones
NUL = "\0"

Json = dict[str, Any]


class NotJson(ValueError):
    """The text is not JSON; the message says where and why."""


class _Repeated(dict[str, Any]):
    """An object that gives some names twice, which readers of JSON understand differently."""

    names: tuple[str, ...] = ()


def read_json(raw: bytes) -> Any:
    """The document. Raises NotJson."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson(f"the body is not UTF-8: byte {error.start} cannot be decoded") from None
    return parse_json(text)


def parse_json(text: str, what: str = "the body") -> Any:
    """The document in a text, which errors call ``what``. Raises NotJson."""
    if not text.strip():
        raise NotJson(f"{what} is empty; send a JSON object")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise NotJson(f"{what} is not JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise NotJson(f"{what} is nested deeper than {MAX_DEPTH} levels") from None


def _object(pairs: list[tuple[str, Any]]) -> Json:
    document = dict(pairs)
    if len(document) == len(pairs):
        return document
    repeated = _Repeated(document)
    counts = Counter(name for name, _ in pairs)
    repeated.names = tuple(name for name, count in counts.items() if count > 1)
    return repeated


def _constant(name: str) -> Any:
    raise NotJson(f"{name} is not JSON; leave the field out or send null")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise NotJson(f"a number of {len(digits):,} digits is longer than any that is read")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)


def unstorable(document: Any) -> list[Json]:
    """The first faults of values that cannot be stored, or that readers understand differently.

    These are names that an object gives twice, texts with NUL or a lone surrogate, numbers out of
    range, and objects nested too deeply.
    """
    faults = islice(_unstorable(document), MAX_FAULTS)
    return [{"pointer": _pointer(place), "detail": detail} for place, detail in faults]


# Where a value is: the place of the object or list that holds it, and its name there. A pointer is
# put together only for a fault, as those of all values of a deep document would be long together.
Place = tuple["Place", str] | None


def _unstorable(document: Any) -> Iterator[tuple[Place, str]]:
    """The place of each fault, and a sentence. It does not recurse, as bodies may be deep."""
    waiting: list[tuple[Place, Any, int]] = [(None, document, 1)]
    while waiting:
        place, value, depth = waiting.pop()
        if isinstance(value, dict | list) and depth > MAX_DEPTH:
            yield place, f"is nested deeper than {MAX_DEPTH} levels"
            return
        if isinstance(value, dict):
            yield from (((place, name), said) for name in value if (said := wrong_text(name)))
            repeated = value.names if isinstance(value, _Repeated) else ()
            yield from (((place, name), "is given twice; give it once") for name in repeated)
            waiting += [((place, name), each, depth + 1) for name, each in value.items()][::-1]
        elif isinstance(value, list):
            inner = [((place, str(index)), each, depth + 1) for index, each in enumerate(value)]
            waiting += reversed(inner)
        elif said := _wrong_value(value):
            yield place, said


def _pointer(place: Place) -> str:
    steps: list[str] = []
    while place is not None:
        place, name = place
        steps.append(f"/{pointer_step(name)}")
    return "".join(reversed(steps)) or "/"


def _wrong_value(value: Any) -> str | None:
    if isinstance(value, str):
        return wrong_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "is larger than any number that can be stored"
    if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        return "is beyond the integers of 64 bits"
    return None


_SURROGATE = re.compile("[\ud800-\udfff]")


def wrong_text(text: str) -> str | None:
    """Why a text cannot be stored, or None."""
    if NUL in text:
        return "has a NUL character (\\0), which cannot be stored; leave it out"
    if not text.isascii() and _SURROGATE.search(text):
        return "has half of a character (a lone surrogate), which cannot be stored; leave it out"
    return None
