"""A model as a request names it, and what its config and the headers of its weights tell."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from surgery.schemas.enums import Granularity

# A dot is always followed by something else: no name is "..", and none leaves its folder.
WORD = r"[A-Za-z0-9_](?:\.?[A-Za-z0-9_-])*"
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


class LayerInfo(BaseModel):
    """One block of the encoder, or at a finer granularity one part of it."""

    name: str
    index: int = Field(description="Of the block.")
    parameters: int


class ModelInfo(BaseModel):
    """What a checkpoint's headers tell: no weight is read."""

    id: str
    revision: str | None
    fingerprint: str
    model_type: str
    architecture: str | None
    hidden_size: int | None
    parameters: int = Field(description="Of the checkpoint, heads included.")
    layers: list[LayerInfo]
    parts: dict[Granularity, list[LayerInfo]] = Field(
        {}, description="The parts of the layers, bottom to top, with `granularity`."
    )
    groups: dict[str, int] = Field(description="Parameters beside the layers: embeddings, pooler.")
    source: Literal["mirror", "hub"]

    def at(self, granularity: Granularity) -> list[LayerInfo]:
        """The layers or the parts that a selection of this granularity chooses among."""
        return self.layers if granularity is Granularity.LAYER else self.parts[granularity]
