"""Count the floating-point operations of a fine-tune from sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from surgery.models.shape import EncoderShape


@dataclass(frozen=True)
class TrainedSizes:
    """How many parameters train, for each block by its index, and ``beside`` the blocks.

    ``below`` says that something below the blocks trains too, so that no prefix is frozen.
    ``keeps_inputs`` says that weights of linear layers train, whose gradients need the inputs.
    """

    blocks: Mapping[int, int]
    beside: int
    below: bool = False
    keeps_inputs: bool = True

    @property
    def parameters(self) -> int:
        """The number of all parameters that train."""
        return sum(self.blocks.values()) + self.beside

    def lowest(self, shape: EncoderShape) -> int:
        """How many blocks are below everything that trains, and so in the frozen prefix."""
        if self.below:
            return 0
        return min(
            (index for index, size in self.blocks.items() if size), default=len(shape.blocks)
        )


@dataclass(frozen=True)
class RowLength:
    """Means over rows: of their numbers of tokens, and of their sequences' squared lengths."""

    tokens: float
    squares: float


def forward_work(
    shape: EncoderShape, row: RowLength, first: int = 0, end: int | None = None
) -> float:
    """Operations of a row's forward pass through the blocks from ``first`` up to ``end``."""
    blocks = shape.blocks[first:end]
    return shape.runs * (2 * sum(blocks) * row.tokens + len(blocks) * _attention(shape, row))


def suffix_work(shape: EncoderShape, row: RowLength, trained: TrainedSizes) -> float:
    """Operations of a row's forward and backward pass through all blocks above the prefix."""
    blocks = shape.blocks[trained.lowest(shape) :]
    linear = 4 * sum(blocks) + 2 * sum(trained.blocks.values())
    return shape.runs * (linear * row.tokens + 3 * len(blocks) * _attention(shape, row))


def _attention(shape: EncoderShape, row: RowLength) -> float:
    return 4 * (shape.hidden or 0) * row.squares
