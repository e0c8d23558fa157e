"""A checkpoint and its files."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class FileView(BaseModel):
    """One file of a checkpoint."""

    name: str = Field(description="The file's name.")
    bytes: int = Field(description="The file's size.")
    sha256: str = Field(description="SHA-256 of the file's content, in hexadecimal digits.")
    href: str = Field(description="The path to download it from.")


class CheckpointView(BaseModel):
    """A checkpoint and its files."""

    id: str = Field(description="The checkpoint's id.")
    job: str = Field(description="The fine-tune that wrote it.")
    step: int = Field(description="Optimizer steps done by then.")
    epoch: float = Field(description="Passes over the training rows done by then.")
    form: Literal["delta", "full", "adapter"] = Field(
        description="`delta`: only the tensors that were trained. `full`: a whole transformers "
        "folder. `adapter`: a LoRA adapter in PEFT's format."
    )
    is_best: bool = Field(description="Whether it has the job's best metric so far.")
    pinned: bool = Field(description="Whether it is kept regardless of `checkpoints.keep`.")
    metrics: dict[str, float | None] = Field(
        description="The metrics of the evaluation it belongs to."
    )
    bytes: int = Field(description="Size of all its files together.")
    files: list[FileView] = Field(description="Its files, as they are stored.")
    created_at: datetime = Field(description="When it was stored.")
    links: dict[str, str] = Field(description="Paths of the checkpoint, its archive and its job.")
