"""Squares of per-sample weight gradients, against one einsum over all samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.gradients import squares
from surgery.gradients.squares import add_squared_products
from tests.support.models.encoders import tiny
from tests.support.processes import interpreted_squares
from tests.support.processes.interpreted_squares import CASES, of_weight
from tests.support.reference.encoder_table import HEADS, cases

ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is for Linux alone")

# Samples, tokens, rows, columns.
SHAPES = {
    "typical": (3, 16, 48, 32),
    "odd": (5, 7, 13, 11),
    "one sample": (1, 9, 6, 4),
    "one token": (4, 1, 6, 4),
    "one row": (3, 5, 1, 8),
    "one column": (3, 5, 8, 1),
    "no samples": (0, 5, 8, 3),
    "no tokens": (3, 0, 8, 3),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda rows: rows,
    "transposed": lambda rows: rows.mT.contiguous().mT,
    "every second sample": lambda rows: rows.repeat_interleave(2, 0)[::2],
    "part of a wider tensor": lambda rows: torch.cat([rows, rows, rows], 2)[:, :, : rows.shape[2]],
    "samples last": lambda rows: rows.permute(1, 2, 0).contiguous().permute(2, 0, 1),
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def expected_squares(gradients: Tensor, inputs: Tensor) -> Tensor:
    """Each sample's squared gradient, (N, p, d), in float64."""
    return torch.einsum("ntp,ntd->npd", gradients.double(), inputs.double()).square()


def assert_adds(gradients: Tensor, inputs: Tensor, total: Tensor) -> None:
    tolerance = TOLERANCES[total.dtype]
    expected = total.double() + expected_squares(gradients, inputs).sum(0)
    add_squared_products(total, gradients, inputs)
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(total.double(), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_type_and_layout(shape: str, dtype: torch.dtype, layout: str) -> None:
    samples, tokens, rows, columns = SHAPES[shape]
    gradients = LAYOUTS[layout](normal((samples, tokens, rows), 1, dtype))
    inputs = LAYOUTS[layout](normal((samples, tokens, columns), 2, dtype))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert_adds(gradients, inputs, normal((rows, columns), 3, wide))


@pytest.mark.parametrize("left", TYPES, ids=str)
@pytest.mark.parametrize("right", TYPES, ids=str)
def test_mixed_types(left: torch.dtype, right: torch.dtype) -> None:
    """Under autocast a Linear's inputs and the gradients of its outputs differ in type."""
    wide = torch.float64 if torch.float64 in (left, right) else torch.float32
    total = torch.zeros(6, 5, dtype=wide)
    assert_adds(normal((3, 4, 6), 1, left), normal((3, 4, 5), 2, right), total)


@pytest.mark.parametrize(("rows", "columns"), [(12, 8), (13, 11), (1, 30), (30, 1), (200, 7)])
def test_many_tiles(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 24 numbers: also those that the tiles do not divide."""
    monkeypatch.setattr(squares, "TILE", 24)
    monkeypatch.setattr(squares, "WIDTH", 5)
    total = normal((columns, rows), 3).mT
    assert_adds(normal((3, 4, rows), 1), normal((3, 4, columns), 2), total)


@pytest.mark.parametrize("weight", [(768, 768), (3072, 768), (768, 3072), (4096, 1024), (5, 9000)])
def test_tiles_cover_the_weight_once(weight: tuple[int, int]) -> None:
    covered = torch.zeros(weight)
    for part in squares._tiles(*weight):
        covered[part] += 1
        assert covered[part].numel() <= squares.TILE
    assert covered.eq(1).all()


def test_real_tiles() -> None:
    """A weight of several, as they are in use."""
    gradients, inputs = normal((2, 3, 1600), 1), normal((2, 3, 1000), 2)
    assert len(list(squares._tiles(1600, 1000))) > 2
    assert_adds(gradients, inputs, torch.zeros(1600, 1000, dtype=torch.float64))


def test_half_precision_is_squared_in_float32() -> None:
    """Float16 has no numbers above 65,504."""
    gradients = torch.full((1, 8, 2), 100.0, dtype=torch.float16)
    total = torch.zeros(2, 2)
    add_squared_products(total, gradients, gradients)
    assert total.eq(80_000.0**2).all()


def test_autograd_sees_nothing() -> None:
    gradients, inputs = (normal((2, 3, 4), seed).requires_grad_() for seed in (1, 2))
    total = torch.zeros(4, 4, dtype=torch.float64)
    add_squared_products(total, gradients, inputs)
    assert not total.requires_grad
    assert total.gt(0).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": torch.zeros(2, 4, 5)}, "agree in N and T"),
        ({"inputs": torch.zeros(3, 5)}, "agree in N and T"),
        ({"total": torch.zeros(5, 6)}, r"must be \(6, 5\) as the weight is; got \(5, 6\)"),
        (
            {"total": torch.zeros(6, 5, dtype=torch.float64)},
            "must be torch.float32; got torch.float64",
        ),
        ({"total": torch.zeros(6, 5, dtype=torch.bfloat16)}, "must be torch.float32"),
        ({"inputs": torch.zeros(2, 3, 5, dtype=torch.int64)}, "torch.int64"),
        ({"inputs": torch.zeros(2, 3, 5, device="meta")}, "one device"),
    ],
)
def test_wrong_arguments(changed: dict[str, Tensor], message: str) -> None:
    right = {
        "total": torch.zeros(6, 5),
        "gradients": torch.zeros(2, 3, 6),
        "inputs": torch.zeros(2, 3, 5),
    }
    with pytest.raises(ValueError, match=message):
        add_squared_products(**{**right, **changed})


@pytest.fixture(scope="module")
def weights() -> list[tuple[int, int]]:
    """Rows and columns of every weight of a linear map, over the table of encoders."""
    found = set()
    for case in cases():
        model = tiny(case.encoder, labels=HEADS[case.head][1], problem=case.problem)
        maps = (module for module in model.modules() if isinstance(module, nn.Linear))
        found |= {(each.out_features, each.in_features) for each in maps}
    return sorted(found)


@pytest.fixture(scope="module")
def interpreted(weights: list[tuple[int, int]]) -> dict[str, float]:
    """Errors of the kernel by case, from one run of Triton's interpreter."""
    run = subprocess.run(
        [sys.executable, interpreted_squares.__file__, json.dumps(weights)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found: dict[str, float] = json.loads(run.stdout)
    return found


@needs_triton
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_in_the_interpreter(
    case: str, layout: str, interpreted: dict[str, float]
) -> None:
    tolerance = TOLERANCES[getattr(torch, "float64" if "float64" in CASES[case] else "float32")]
    assert interpreted[f"{case}, {layout}"] < tolerance


@needs_triton
def test_the_kernel_agrees_on_every_weight_of_the_table(
    weights: list[tuple[int, int]], interpreted: dict[str, float]
) -> None:
    assert len(weights) >= 8
    for size in weights:
        for layout in ("contiguous", "transposed"):
            assert interpreted[f"{of_weight(*size)}, {layout}"] < 1e-5, size


@needs_triton
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("capability", "product"), [(80, "mma.sync"), (90, "wgmma"), (100, "tcgen05")]
)
def test_the_kernel_compiles_to_tensor_cores(
    capability: int, product: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an A100, an H100 and a B200, which the compiler does not need to see."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    from surgery.gradients import squares_triton

    names = squares_triton._add_squares.arg_names
    operand = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    constants: dict[str, Any] = {
        "SIDE": 128, "BLOCK": squares_triton.BLOCK_BYTES // operand.itemsize,
        "DTYPE": squares_triton._name(operand), "SUM": squares_triton._name(torch.float32),
        "PRECISION": "tf32x3",
        "total_column": 1, "gradient_row": 1, "input_column": 1,
    }  # fmt: skip
    pointers = {"total": "*fp32", "gradients": f"*{dtype}", "inputs": f"*{dtype}"}
    types = dict.fromkeys(names, "i32") | pointers | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        squares_triton._add_squares,
        types,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    options = {"num_warps": squares_triton.LARGE.warps, "num_stages": squares_triton.STAGES}
    binary = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert product in binary.asm["ptx"]
    assert binary.metadata.shared <= 99 * 1024  # what the smallest GPUs since Ampere have
