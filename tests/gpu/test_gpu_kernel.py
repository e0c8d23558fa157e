"""The Triton kernel on a GPU, beside one einsum and beside what runs where there is no kernel."""

from __future__ import annotations

import pytest
import torch

from surgery.gradients.squares import _kernel_runs_on, add_squared_products, add_squares_by_tile
from tests.support.processes.interpreted_squares import CASES, error

pytestmark = pytest.mark.gpu
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-5}


@pytest.mark.parametrize("transposed", [False, True], ids=["contiguous", "transposed"])
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_on_the_device(case: str, transposed: bool, gpu: torch.device) -> None:
    tolerance = TOLERANCE[CASES[case][5]]
    assert error(case, transposed=transposed, device=gpu) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("rows", "columns"), [(384, 384), (768, 768), (3072, 768), (768, 3072), (4096, 1024)]
)
def test_weights_of_real_encoders(
    rows: int, columns: int, dtype: torch.dtype, gpu: torch.device
) -> None:
    assert _kernel_runs_on(gpu), "no kernel: Triton is missing, or the GPU is older than Ampere"
    generator = torch.Generator(gpu).manual_seed(0)
    gradients, inputs = (
        torch.randn(8, 128, size, generator=generator, device=gpu).to(dtype)
        for size in (rows, columns)
    )
    fused, eager = (torch.zeros(rows, columns, device=gpu) for _ in range(2))
    add_squared_products(fused, gradients, inputs)
    add_squares_by_tile(eager, gradients, inputs)
    torch.testing.assert_close(fused, eager, rtol=1e-3, atol=1e-3 * float(eager.max()))
