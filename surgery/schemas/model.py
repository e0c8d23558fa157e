"""What is known of a model from its config and the headers of its weights."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from surgery.schemas.enums import Granularity


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
