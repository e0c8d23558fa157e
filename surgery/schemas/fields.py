"""Fields that many requests have: names of models and datasets, metadata."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# A dot is always followed by something else: no name is "..", and none leaves its folder.
WORD = r"[A-Za-z0-9_](?:\.?[A-Za-z0-9_-])*"
HUB_DATASET_PATTERN = rf"^{WORD}(?:/{WORD})?$"
NAME_PATTERN = rf"^{WORD}$"

# The Hub's own rules: names of up to 96 characters, no "--", no "-" or ".git" at their end.
_HUB_RULES = r"(?=(?:[^@/]{1,96}/)?[^@/]{1,96}(?:@|$))(?![^@]*(?:--|-(?:[/@]|$)|\.git(?:@|$)))"
MODEL_PATTERN = rf"^{_HUB_RULES}{WORD}(?:/{WORD})?(?:@{WORD})?$"

ModelId = Annotated[
    str,
    StringConstraints(max_length=300),
    Field(
        description="Hugging Face model id, `owner/name` or `name`, with an optional `@revision`.",
        examples=["google-bert/bert-base-cased"],
    ),
]

Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16, description="Your own labels: up to 16 pairs of strings."),
]


class Strict(BaseModel):
    """Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", use_enum_values=False, ser_json_inf_nan="null")
