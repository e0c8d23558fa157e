"""What a job has used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgery.schemas.resolved import PeakMemory

Json = dict[str, Any]


class Usage(BaseModel):
    """What one attempt at a job has used, or all of them together."""

    model_config = ConfigDict(frozen=True)

    worker_seconds: dict[str, float] = Field(
        default={},
        description="Seconds for which workers held the job, by the name of the device. A job on "
        "several processes counts each of their devices.",
    )
    peak_memory_bytes: PeakMemory = Field(
        PeakMemory(), description="The most memory that a process of the job held at once."
    )

    def __add__(self, other: Usage) -> Usage:
        seconds = dict(self.worker_seconds)
        for device, spent in other.worker_seconds.items():
            seconds[device] = round(seconds.get(device, 0.0) + spent, 3)
        peak = self.peak_memory_bytes.combined(other.peak_memory_bytes)
        return Usage(worker_seconds=seconds, peak_memory_bytes=peak)

    @classmethod
    def of(cls, stored: Json | None) -> Usage:
        """What a row has stored."""
        return cls.model_validate(stored or {})

    @classmethod
    def total(cls, stored: Iterable[Json | None]) -> Usage:
        """What several rows have stored, together."""
        return sum(map(cls.of, stored), start=cls())


class JobUsage(Usage):
    """What a job has used, and what is stored for it."""

    stored_bytes: int = Field(
        description="Size of its checkpoints, of the folder that it exported, of the state that it "
        "would resume from, and of the logs of its attempts. What is stored for a comparison is "
        "stored for its children."
    )
