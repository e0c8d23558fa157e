"""The machine's GPUs, shared out among workers: from NVIDIA's driver, without importing torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One device. ``key`` is what CUDA_VISIBLE_DEVICES calls it: its UUID, or its number."""

    key: str
    name: str
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name}, {self.memory_bytes / 2**30:.0f} GiB"


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that a process with this environment may use; none where there is no driver."""
    found = _installed()
    wanted = environment.get(VISIBLE)
    if wanted is None:
        return found
    chosen = []
    for key in (part.strip() for part in wanted.split(",")):
        gpu = _named(key, found)
        if gpu is None:
            break  # CUDA, too, sees none from the first on that is not there
        chosen.append(Gpu(key, gpu.name, gpu.memory_bytes))
    return chosen


def _installed() -> list[Gpu]:
    import pynvml  # of a worker's install

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [
            Gpu(
                pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle),
                int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
        ]  # fmt: skip
    finally:
        pynvml.nvmlShutdown()


def _named(key: str, found: Sequence[Gpu]) -> Gpu | None:
    """By number, or by the beginning of its UUID. Of a slice of a GPU (MIG), the GPU itself."""
    if key.isdecimal():
        return found[int(key)] if int(key) < len(found) else None
    if key.startswith("MIG-") and found:
        return found[0]
    return next((gpu for gpu in found if key and gpu.key.startswith(key)), None)


def groups(gpus: Sequence[Gpu], size: int) -> list[list[Gpu]]:
    """Workers' shares: so many GPUs each, the last one with what is left."""
    return [list(gpus[start : start + size]) for start in range(0, len(gpus), size)]
