"""Texts of strangers as every database and every answer can hold them."""

from __future__ import annotations

from typing import Any

from surgery.errors import encodable


def storable_json(value: Any) -> Any:
    """A JSON value, with NUL characters and lone surrogates of its texts escaped, also in names.

    A name in a stranger's file may contain them, and so may a message about it.
    """
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {storable_json(name): storable_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(each) for each in value]
    return value
