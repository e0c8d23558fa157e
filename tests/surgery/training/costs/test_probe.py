"""The probe of a device, on this machine's CPU."""

from __future__ import annotations

import math

import torch

from surgery.training.speed.probe import probe
from surgery.training.speed.throughput import device_name


def test_each_precision_is_measured_or_its_failure_told() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    measured = probe(["fp32", "tf32"])
    assert torch.equal(torch.random.get_rng_state(), before)  # jobs draw what they always drew
    assert torch.get_float32_matmul_precision() == "highest"
    assert measured.device == device_name(torch.device("cpu"))
    assert measured.torch == torch.__version__
    [speed] = measured.speeds
    assert (speed.precision, speed.width) == ("fp32", 384)
    assert math.isfinite(speed.operations_per_second)
    assert measured.failures == {
        "tf32": "TrainingInvalid: precision tf32 needs a GPU, and this worker has none; use fp32 or "
        "bf16"
    }
