"""The models of all requests and results, one file for each resource, and their enums."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Refuses unknown fields, because a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", use_enum_values=False, ser_json_inf_nan="null")
