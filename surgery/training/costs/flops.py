"""How many floating-point operations a fine-tune takes, counted from sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from surgery.models.shape import EncoderShape


@dataclass(frozen=True)
class Trained:
    """What trains: how many parameters of which blocks, and how many beside them.

    ``below`` says that something below the blocks trains too, so that no prefix is frozen;
    ``keeps_inputs`` that weights of linear maps train, whose gradients need the maps' inputs.
    """

    blocks: Mapping[int, int]
    beside: int
    below: bool = False
    keeps_inputs: bool = True

    @property
    def parameters(self) -> int:
        """All that trains."""
        return sum(self.blocks.values()) + self.beside

    def lowest(self, shape: EncoderShape) -> int:
        """How many blocks lie below everything that trains: the frozen prefix."""
        if self.below:
            return 0
        return min(
            (index for index, size in self.blocks.items() if size), default=len(shape.blocks)
        )


@dataclass(frozen=True)
class RowLength:
    """Means over rows: of their tokens, and of the squared lengths of their sequences."""

    tokens: float
    squares: float


def forward_work(
    shape: EncoderShape, row: RowLength, first: int = 0, end: int | None = None
) -> float:
    """Operations of a row's forward pass through the blocks from ``first`` to before ``end``."""
    blocks = shape.blocks[first:end]
    return shape.runs * (2 * sum(blocks) * row.tokens + len(blocks) * _attention(shape, row))


def suffix_work(shape: EncoderShape, row: RowLength, trained: Trained) -> float:
    """Operations of a row's forward and backward pass through all that is not frozen prefix."""
    blocks = shape.blocks[trained.lowest(shape) :]
    linear = 4 * sum(blocks) + 2 * sum(trained.blocks.values())
    return shape.runs * (linear * row.tokens + 3 * len(blocks) * _attention(shape, row))


def _attention(shape: EncoderShape, row: RowLength) -> float:
    return 4 * (shape.hidden or 0) * row.squares
