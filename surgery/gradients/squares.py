"""Sums of elementwise squares of per-sample weight gradients, for the Fisher diagonal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

# How many numbers one tile of the weight has. The buffer and the tile of the total (2.4 MB each in
# float32) stay in the cache from one sample to the next; whole matrices of 3072 x 768 would be read
# from memory for every sample. Smaller tiles cost more than they save: a product over few tokens
# repacks its operands for each tile, and MKL runs one of under 384 rows on a single thread.
TILE = 768 * 768
WIDTH = 768  # the most columns of a tile: with two threads, flat tiles take twice as long


def add_squared_products(total: Tensor, gradients: Tensor, inputs: Tensor) -> None:
    """total += Σ_i (G_iᵀ A_i)², elementwise: every sample's own gradient of a Linear's weight.

    ``total`` is (p, d), ``gradients`` G (N, T, p), ``inputs`` A (N, T, d), with any strides. The
    total is float64 where either operand is, else float32: half precision is multiplied and added
    in float32.

    The cost is 2·N·T·p·d operations, as of one product over all tokens, plus N·p·d squares. Beside
    the operands memory holds one tile, or nothing on a GPU since Ampere (one Triton kernel).
    Autograd does not record it. Raises ValueError for shapes, types or devices that do not fit
    together.
    """
    _require_fitting(total, gradients, inputs)
    with torch.no_grad():
        if _kernel_runs_on(total.device):
            from surgery.gradients.squares_triton import add_squares_fused

            add_squares_fused(total, gradients, inputs)
        else:
            add_squares_by_tile(total, gradients, inputs)


@torch.no_grad()
def add_squares_by_tile(total: Tensor, gradients: Tensor, inputs: Tensor) -> None:
    """``add_squared_products`` without a GPU kernel: one product for each sample and tile."""
    buffer = total.new_empty(min(TILE, total.numel()))
    for rows, columns in _tiles(*total.shape):
        part = total[rows, columns]
        product = buffer[: part.numel()].view(part.shape)
        for left, right in zip(gradients[:, :, rows].mT, inputs[:, :, columns], strict=True):
            torch.mm(left.to(total.dtype), right.to(total.dtype), out=product)
            part.addcmul_(product, product)


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles of about equal size, of at most TILE numbers, that cover the weight."""
    width = _even_part(columns, WIDTH)
    height = _even_part(rows, TILE // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


def _even_part(length: int, limit: int) -> int:
    """The size of each part when a length is split evenly into as few as the limit allows."""
    if length <= limit:
        return max(1, length)
    size = math.ceil(length / math.ceil(length / limit))
    return min(limit, math.ceil(size / 64) * 64)  # whole vectors and panels of the product


@cache
def _kernel_runs_on(device: torch.device) -> bool:
    """Whether Triton is there, as in PyTorch's CUDA builds, and the GPU is of Ampere or later."""
    if device.type != "cuda" or torch.version.hip or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _require_fitting(total: Tensor, gradients: Tensor, inputs: Tensor) -> None:
    """Raise ValueError for shapes, types or devices that do not fit together."""
    if gradients.dim() != 3 or inputs.dim() != 3 or gradients.shape[:2] != inputs.shape[:2]:
        raise ValueError(
            "gradients (N, T, p) and inputs (N, T, d) must agree in N and T; got "
            f"{tuple(gradients.shape)} and {tuple(inputs.shape)}"
        )
    weight = (gradients.shape[2], inputs.shape[2])
    if total.shape != weight:
        raise ValueError(f"the total must be {weight} as the weight is; got {tuple(total.shape)}")
    operands = {gradients.dtype, inputs.dtype}
    expected = torch.float64 if torch.float64 in operands else torch.float32
    if total.dtype != expected or not all(dtype.is_floating_point for dtype in operands):
        raise ValueError(
            f"the total of {gradients.dtype} and {inputs.dtype} must be {expected}; "
            f"got {total.dtype}"
        )
    if gradients.device != total.device or inputs.device != total.device:
        raise ValueError("total, gradients and inputs must be on one device")
