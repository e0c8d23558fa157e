"""How fast a run was. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, Field

from surgery.terms import TrainingPrecision


class Throughput(BaseModel):
    """How fast the steps were; what later estimates are taken from."""

    device: str
    precision: TrainingPrecision
    operations: float = Field(
        description="Floating-point operations of the blocks in all steps, counted from sizes."
    )
    seconds: float
    mean_tokens: float = Field(description="Of a training row after the cut, its choices together.")
    mean_squares: float = Field(description="Of the squared lengths of a row's sequences.")
    process_bytes: int | None = Field(
        description="Memory that the process held beside the model; 0 on a GPU."
    )
