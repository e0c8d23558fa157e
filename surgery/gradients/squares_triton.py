"""A Triton kernel that sums squares of per-sample weight gradients without storing a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """The part of the weight that one program of the kernel computes."""

    side: int  # rows and columns; registers hold side² numbers of a gradient and of the total
    warps: int


LARGE = Tile(128, warps=8)  # 64 multiplications per loaded number; registers hold no more
SMALL = Tile(64, warps=4)  # for weights with fewer large tiles than the GPU has processors
STAGES = 3  # blocks of tokens that are loaded ahead
BLOCK_BYTES = 128  # per row of a block in shared memory: 3 · 2 · 128 rows · 128 B = 96 KiB


# Batches differ in both numbers, so neither may cause the kernel to be compiled again.
@triton.jit(do_not_specialize=["samples", "tokens"])  # type: ignore[untyped-decorator]
def _add_squares(  # type: ignore[no-untyped-def]
    total,
    gradients,
    inputs,
    samples,
    tokens,
    rows,
    columns,
    total_row,
    total_column,
    gradient_sample,
    gradient_token,
    gradient_row,
    input_sample,
    input_token,
    input_column,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Neighbouring programs read the same columns of the gradients, and find them in the L2 cache.
    across = tl.cdiv(columns, SIDE)
    program = tl.program_id(0).to(tl.int64)  # as all offsets: a batch can exceed 2^31 numbers
    row = ((program // across) * SIDE + tl.arange(0, SIDE))[:, None]
    column = ((program % across) * SIDE + tl.arange(0, SIDE))[None, :]
    left, right = gradients + row * gradient_row, inputs + column * input_column
    squares, product = tl.zeros((SIDE, SIDE), SUM), tl.zeros((SIDE, SIDE), SUM)
    steps = tl.cdiv(tokens, BLOCK)
    # One loop over the blocks of all samples: a sample's loads overlap the end of the one before.
    for step in range(samples * steps):
        sample = (step // steps).to(tl.int64)
        token = (step % steps) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
        across_row, down_column = token[None, :], token[:, None]
        g = left + sample * gradient_sample + across_row * gradient_token
        g = tl.load(g, mask=(row < rows) & (across_row < tokens), other=0.0).to(DTYPE)
        a = right + sample * input_sample + down_column * input_token
        a = tl.load(a, mask=(down_column < tokens) & (column < columns), other=0.0).to(DTYPE)
        product = tl.dot(g, a, product, input_precision=PRECISION, out_dtype=SUM)
        if (step + 1) % steps == 0:
            squares += product * product
            product = tl.zeros((SIDE, SIDE), SUM)
    where = total + row * total_row + column * total_column
    inside = (row < rows) & (column < columns)
    tl.store(where, tl.load(where, mask=inside, other=0.0) + squares, mask=inside)


def add_squares_fused(
    total: Tensor, gradients: Tensor, inputs: Tensor, tile: Tile | None = None
) -> None:
    """total += Σ_i (G_iᵀ A_i)² on a GPU; the arguments are those of ``add_squared_products``.

    Each program computes a tile of the weight over all samples, so the result does not
    depend on the order in which programs run. ``tile`` overrides the choice by the weight's size.
    """
    if not inputs.numel() or not gradients.numel():
        return
    tile = tile or _tile_for(total)
    operand = torch.promote_types(gradients.dtype, inputs.dtype)
    across, down = (triton.cdiv(size, tile.side) for size in reversed(total.shape))
    samples, tokens, columns = inputs.shape
    block = min(BLOCK_BYTES // operand.itemsize, max(16, triton.next_power_of_2(tokens)))
    with torch.cuda.device_of(total):  # Triton launches on the current device
        _add_squares[(across * down,)](
            total,
            gradients,
            inputs,
            samples,
            tokens,
            len(total),
            columns,
            *total.stride(),
            *gradients.stride(),
            *inputs.stride(),
            SIDE=tile.side,
            BLOCK=block,
            DTYPE=_name(operand),
            SUM=_name(total.dtype),
            PRECISION=_precision(),
            num_warps=tile.warps,
            num_stages=STAGES,
        )


def _tile_for(total: Tensor) -> Tile:
    """A large tile, which reads the operands half as often, if there are enough to fill the GPU."""
    processors = torch.cuda.get_device_properties(total.device).multi_processor_count
    large = math.prod(triton.cdiv(size, LARGE.side) for size in total.shape)
    return LARGE if large >= processors and total.dtype == torch.float32 else SMALL


def _precision() -> str:
    """The precision of float32 products on tensor cores, as PyTorch is set to use for its own.

    Three TF32 products keep the accuracy of float32, at several times the speed of float32 units.
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _name(dtype: torch.dtype) -> tl.dtype:
    found: tl.dtype = getattr(tl, str(dtype).removeprefix("torch."))
    return found
