"""Fields that several requests share, and command-line options that are made from fields."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, StringConstraints

# Two dots never follow each other, so no name is "..", and no path leaves its folder.
WORD = r"[A-Za-z0-9_](?:\.?[A-Za-z0-9_-])*"
# The Hub's own rules: names of up to 96 characters, no "--", no "-" or ".git" at their end.
_HUB_RULES = r"(?=(?:[^@/]{1,96}/)?[^@/]{1,96}(?:@|$))(?![^@]*(?:--|-(?:[/@]|$)|\.git(?:@|$)))"
REPOSITORY_PATTERN = rf"^{_HUB_RULES}{WORD}/{WORD}$"
MODEL_PATTERN = rf"^{_HUB_RULES}{WORD}(?:/{WORD})?(?:@{WORD})?$"

ModelId = Annotated[
    str,
    StringConstraints(max_length=300),
    Field(
        description="Hugging Face model id, `owner/name` or `name`, with an optional `@revision`.",
        examples=["google-bert/bert-base-cased"],
    ),
]


@dataclass(frozen=True)
class Option:
    """An option of a command line.

    ``type`` is the type of one value: int, float, str, bool, Path, an enum or a Literal of strings.
    An option of type bool takes no value; it inverts the default.
    """

    name: str
    type: Any
    default: Any = None
    help: str = ""
    minimum: int | None = None
    repeated: bool = False  # whether it takes several values
    metavar: str | None = None
    spelling: str = ""  # if it differs from the name

    @property
    def flag(self) -> str:
        """The option as it is written on the command line, as in --max-length."""
        return self.spelling or f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of an enum or a Literal; empty for other types."""
        if get_origin(self.type) is Literal:
            return get_args(self.type)
        is_enum = isinstance(self.type, type) and issubclass(self.type, StrEnum)
        return tuple(self.type) if is_enum else ()


def option_of(
    spec: type[BaseModel], field: str, *, repeated: bool = False, **differences: Any
) -> Option:
    """The option that sets a field of a request; ``differences`` replace what the field gives.

    A list is written with commas, unless the option is ``repeated``.
    """
    described = spec.model_fields[field]
    kind, default = _type_of_value(described.annotation), described.get_default()
    if get_origin(kind) is list and repeated:
        kind, default = _type_of_value(get_args(kind)[0]), None
    elif get_origin(kind) is list:
        kind, default = str, ",".join(map(str, default or ())) or None
    minimum = next((each.ge for each in described.metadata if hasattr(each, "ge")), None)
    text = re.sub(r"`([^`]+)`", partial(_named, spec), described.description or "")
    return replace(Option(field, kind, default, text, minimum, repeated), **differences)


def _named(spec: type[BaseModel], quoted: re.Match[str]) -> str:
    """The command-line form of a name that a description puts between backticks."""
    name = quoted[1]
    return Option(name, str).flag if name in spec.model_fields else name


def options_of(spec: type[BaseModel], *fields: str) -> tuple[Option, ...]:
    """The options that set these fields of a request."""
    return tuple(option_of(spec, field) for field in fields)


def _type_of_value(annotation: Any) -> Any:
    """An annotation without None and without constraints."""
    if get_origin(annotation) is Annotated:
        return _type_of_value(get_args(annotation)[0])
    given = [each for each in get_args(annotation) if each is not NoneType]
    return _type_of_value(given[0]) if NoneType in get_args(annotation) else annotation
