"""Which GPUs the machine has, as NVIDIA's driver lists them, and how workers share them.

Torch is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """A device: a whole GPU, or one slice of a GPU that is partitioned (MIG).

    ``key`` is its name in CUDA_VISIBLE_DEVICES: its UUID or its number. ``slice_name`` is the older
    form of a slice's name, ``MIG-GPU-UUID/GPU-INSTANCE/COMPUTE-INSTANCE``.
    """

    key: str
    name: str
    memory_bytes: int
    slice_name: str = ""
    capability: tuple[int, int] = (0, 0)  # CUDA's; unknown: the oldest

    def __str__(self) -> str:
        return f"{self.name}, {self.memory_bytes / 2**30:.0f} GiB"


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The devices that a process with this environment may use; empty without a driver."""
    installed = _installed()
    listed = environment.get(VISIBLE)
    if listed is None:
        return list(chain(*installed))
    chosen = []
    for key in (part.strip() for part in listed.split(",")):
        gpu = _named(key, installed)
        if gpu is None:
            break  # CUDA, too, ignores the first unknown device and every one after it
        chosen.append(replace(gpu, key=key))
    return chosen


def _installed() -> list[list[Gpu]]:
    """Each GPU of the machine, as a list of its slices where it is partitioned."""
    import pynvml  # installed with the worker alone

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [_devices_of(each) for each in handles]
    finally:
        pynvml.nvmlShutdown()


def _devices_of(whole: Any) -> list[Gpu]:
    """A GPU, or its slices if it is partitioned; only the whole of it tells its capability."""
    found = _slices(whole) if _is_partitioned(whole) else [_gpu(whole)]
    return [replace(gpu, capability=_capability(whole)) for gpu in found]


def _capability(whole: Any) -> tuple[int, int]:
    import pynvml

    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(whole)
    except pynvml.NVMLError:
        return (0, 0)
    return int(major), int(minor)


def _is_partitioned(handle: Any) -> bool:
    import pynvml

    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # this kind of GPU cannot be partitioned
        return False
    return bool(mode == pynvml.NVML_DEVICE_MIG_ENABLE)


def _slices(whole: Any) -> list[Gpu]:
    import pynvml

    uuid, slices = pynvml.nvmlDeviceGetUUID(whole), []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with suppress(pynvml.NVMLError):  # fewer slices exist than the GPU could have
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index)
            numbers = (
                pynvml.nvmlDeviceGetGpuInstanceId(handle),
                pynvml.nvmlDeviceGetComputeInstanceId(handle),
            )
            slices.append(_gpu(handle, "MIG-{}/{}/{}".format(uuid, *numbers)))
    return slices


def _gpu(handle: Any, slice_name: str = "") -> Gpu:
    import pynvml

    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(uuid, name, int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), slice_name)


def _named(key: str, installed: Sequence[Sequence[Gpu]]) -> Gpu | None:
    """The device that CUDA_VISIBLE_DEVICES calls ``key``.

    The key is a GPU's number, the beginning of its UUID, or a slice's name. The name of a
    partitioned GPU stands for its first slice.
    """
    if key.isdecimal():
        numbered = installed[int(key)] if int(key) < len(installed) else ()
        return next(iter(numbered), None)
    return next((gpu for gpu in chain(*installed) if key and _is_called(gpu, key)), None)


def _is_called(gpu: Gpu, key: str) -> bool:
    older = gpu.slice_name
    return gpu.key.startswith(key) or older == key or older.startswith(f"MIG-{key}")


def groups(gpus: Sequence[Gpu], size: int) -> list[list[Gpu]]:
    """The GPUs of each worker: ``size`` of them, and for the last worker those that are left."""
    return [list(gpus[start : start + size]) for start in range(0, len(gpus), size)]
