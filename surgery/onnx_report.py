"""What is told of an exported model. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, Field


class OnnxReport(BaseModel):
    """The exported model, run by onnxruntime beside torch."""

    opset: int
    bytes: int
    rows: int = Field(description="Validation rows compared.")
    lengths: list[int] = Field(description="Their lengths, in tokens.")
    max_abs_difference: float = Field(description="Of a logit, on any of the rows.")
    seconds: float = 0.0
