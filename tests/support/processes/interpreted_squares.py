"""Runs the Triton kernel of squares on the CPU, in Triton's interpreter, and prints its errors.

A program of its own because Triton reads TRITON_INTERPRET when the kernel is defined. Its argument
is a JSON list of weights, rows and columns, to try beside the cases.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

# Samples, tokens, rows, columns, side of a tile, type of the gradients and of the inputs. The
# interpreter multiplies no bfloat16 by bfloat16; it loads and converts it.
CASES: dict[str, tuple[int, int, int, int, int, str, str]] = {
    "one number": (1, 1, 1, 1, 64, "float64", "float64"),
    "less than a tile": (3, 5, 7, 9, 64, "float64", "float64"),
    "exactly a tile": (2, 16, 64, 64, 64, "float64", "float64"),
    "blocks of tokens": (3, 40, 70, 130, 64, "float64", "float64"),
    "large tile": (2, 37, 130, 150, 128, "float64", "float64"),
    "one sample": (1, 70, 130, 65, 64, "float32", "float32"),
    "float32": (3, 33, 66, 130, 128, "float32", "float32"),
    "float16": (3, 70, 66, 65, 64, "float16", "float16"),
    "half inputs": (2, 20, 66, 65, 64, "float32", "bfloat16"),
    "no samples": (0, 4, 5, 6, 64, "float32", "float32"),
    "no tokens": (2, 0, 5, 6, 64, "float32", "float32"),
}


def operands(case: str, *, transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A total, gradients and inputs; transposed ones have their tokens last in memory."""
    samples, tokens, rows, columns, _, left, right = CASES[case]
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    if transposed:
        total = normal(columns, rows).mT
        gradients, inputs = normal(rows, samples, tokens), normal(columns, samples, tokens)
        gradients, inputs = gradients.permute(1, 2, 0), inputs.permute(1, 2, 0)
    else:
        total = normal(rows, columns)
        gradients, inputs = normal(samples, tokens, rows), normal(samples, tokens, columns)
    wide = torch.float64 if left == "float64" else torch.float32
    return total.to(wide), gradients.to(getattr(torch, left)), inputs.to(getattr(torch, right))


def error(case: str, *, transposed: bool, device: torch.device | str = "cpu") -> float:
    """The largest of the total, as a share of its largest number."""
    from surgery.gradients.squares_triton import LARGE, SMALL, add_squares_fused

    made = operands(case, transposed=transposed)
    total, gradients, inputs = (tensor.to(device) for tensor in made)
    squares = torch.einsum("ntp,ntd->npd", gradients.double(), inputs.double()).square()
    expected = total.double() + squares.sum(0)
    tile = {tile.side: tile for tile in (SMALL, LARGE)}[CASES[case][4]]
    add_squares_fused(total, gradients, inputs, tile)
    return float((total - expected).abs().max() / expected.abs().max())


def of_weight(rows: int, columns: int) -> str:
    """The name of a weight's case."""
    return f"{rows} by {columns}"


if __name__ == "__main__":
    for size in json.loads(sys.argv[1]):
        CASES[of_weight(*size)] = (3, 5, *size, 64, "float32", "float32")
    print(  # noqa: T201
        json.dumps(
            {
                f"{case}, {'transposed' if transposed else 'contiguous'}": error(
                    case, transposed=transposed
                )
                for case in CASES
                for transposed in (False, True)
            }
        )
    )
