"""The models of all requests and results, one file for each resource, and their enums."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Refuses unknown fields, because a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", use_enum_values=False, ser_json_inf_nan="null")


class JobWarning(BaseModel):
    """Something that a reader of a job or its result should know of, though it is no error."""

    code: str = Field(description="What was noticed, for programs, such as `no_worker`.")
    message: str = Field(description="What was noticed, in words.")
    remedy: str | None = Field(
        None,
        description="What to try. Fields of the request are named by their whole path, such as "
        "`training.learning_rate`. Null if there is nothing to do.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Results that early versions stored have texts in place of objects."""
        return {"code": "other", "message": value} if isinstance(value, str) else value
