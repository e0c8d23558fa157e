"""The number format a run computes in, and whether its results repeat to the last bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from surgery.errors import Fault, TrainingInvalid
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.options.training import TrainingSpec

HALF = {TrainingPrecision.BF16: torch.bfloat16, TrainingPrecision.FP16: torch.float16}
# cuBLAS is deterministic only with a workspace of fixed size, which is set before its first use.
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is a GPU that multiplies in bfloat16 natively; some only emulate it."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def with_precision(
    training: TrainingSpec, device: torch.device, before: str | None = None
) -> TrainingSpec:
    """The options, with a precision if they leave it open: bf16 on a GPU that has it, else fp32.

    ``before`` is the precision of the run before it was interrupted, maybe on another device.
    """
    if training.precision is not None:
        return training
    chosen = TrainingPrecision.BF16 if has_bfloat16(device) else TrainingPrecision.FP32
    return training.model_copy(update={"precision": TrainingPrecision(before or chosen)})


class Numerics:
    """The precision of one run: autocast, gradient scalers and the process's settings.

    Raises TrainingInvalid if the device does not support the precision.
    """

    def __init__(self, training: TrainingSpec, device: torch.device) -> None:
        self._training, self._device = training, device
        precision = training.precision
        if precision in {TrainingPrecision.TF32, TrainingPrecision.FP16} and device.type != "cuda":
            raise TrainingInvalid(
                f"precision {precision} needs a GPU, and this worker has none; use fp32 or bf16",
                [Fault("needs a GPU", pointer="/training/precision")],
            )

    def scaler(self) -> torch.amp.GradScaler:
        """A new gradient scaler, which does nothing unless the precision is fp16."""
        enabled = self._training.precision is TrainingPrecision.FP16
        return torch.amp.GradScaler(self._device.type, enabled=enabled)

    def autocast(self) -> Any:
        """A context for a forward pass, whose matrix products are in the chosen format."""
        precision = self._training.precision
        if precision not in HALF:
            return nullcontext()
        return torch.autocast(self._device.type, HALF[precision])

    @contextmanager
    def settings(self) -> Iterator[None]:
        """A context for a run; afterwards the process's settings are restored."""
        products = torch.get_float32_matmul_precision()
        repeats = torch.are_deterministic_algorithms_enabled()
        benchmark = torch.backends.cudnn.benchmark
        if self._training.precision is TrainingPrecision.TF32:
            torch.set_float32_matmul_precision("high")
        if self._training.deterministic:
            os.environ.setdefault(*CUBLAS)
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(products)
            torch.use_deterministic_algorithms(repeats)
            torch.backends.cudnn.benchmark = benchmark
