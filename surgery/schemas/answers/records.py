"""What is recorded of a job while it runs: its events and its measurements."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

Json = dict[str, Any]


class EventView(BaseModel):
    """Something that happened to a job."""

    seq: int = Field(description="Events are numbered in the order in which they happened.")
    type: str = Field(description="What happened, such as `status`, `checkpoint` or `ranking`.")
    data: Json = Field(description="Details, which depend on `type`.")
    at: datetime = Field(description="When it happened.")


class MetricView(BaseModel):
    """One number measured at one step."""

    name: str = Field(description="What was measured, such as `train_loss`.")
    step: int = Field(description="Optimizer steps done by then.")
    epoch: float = Field(description="Passes over the training rows done by then.")
    value: float | None = Field(description="The number; null where it was not finite.")
    at: datetime = Field(description="When it was recorded.")
