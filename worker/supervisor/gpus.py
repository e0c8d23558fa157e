"""The machine's GPUs, shared out among workers: from NVIDIA's driver, without importing torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One device: a GPU, or a slice of one that is cut up (MIG).

    ``key`` is what CUDA_VISIBLE_DEVICES calls it: its UUID, or its number. ``place`` is a slice's
    older name, by its GPU and its numbers there.
    """

    key: str
    name: str
    memory_bytes: int
    place: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.memory_bytes / 2**30:.0f} GiB"


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The devices that a process with this environment may use; none where there is no driver."""
    found = _installed()
    wanted = environment.get(VISIBLE)
    if wanted is None:
        return list(chain(*found))
    chosen = []
    for key in (part.strip() for part in wanted.split(",")):
        gpu = _named(key, found)
        if gpu is None:
            break  # CUDA, too, sees none from the first on that is not there
        chosen.append(Gpu(key, gpu.name, gpu.memory_bytes))
    return chosen


def _installed() -> list[list[Gpu]]:
    """Each GPU of the machine, as its slices where it is cut up."""
    import pynvml  # of a worker's install

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [_slices(each) if _is_cut_up(each) else [_described(each)] for each in handles]
    finally:
        pynvml.nvmlShutdown()


def _is_cut_up(handle: Any) -> bool:
    import pynvml

    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # this kind of GPU cannot be
        return False
    return bool(mode == pynvml.NVML_DEVICE_MIG_ENABLE)


def _slices(whole: Any) -> list[Gpu]:
    import pynvml

    uuid, found = pynvml.nvmlDeviceGetUUID(whole), []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with suppress(pynvml.NVMLError):  # fewer slices than there may be
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index)
            numbers = (
                pynvml.nvmlDeviceGetGpuInstanceId(handle),
                pynvml.nvmlDeviceGetComputeInstanceId(handle),
            )
            found.append(_described(handle, "MIG-{}/{}/{}".format(uuid, *numbers)))
    return found


def _described(handle: Any, place: str = "") -> Gpu:
    import pynvml

    return Gpu(
        pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle),
        int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), place,
    )  # fmt: skip


def _named(key: str, found: Sequence[Sequence[Gpu]]) -> Gpu | None:
    """By a GPU's number or the beginning of its UUID (its first slice if cut up), or a slice's."""
    if key.isdecimal():
        numbered = found[int(key)] if int(key) < len(found) else ()
        return next(iter(numbered), None)
    return next((gpu for gpu in chain(*found) if key and _is_called(gpu, key)), None)


def _is_called(gpu: Gpu, key: str) -> bool:
    return gpu.key.startswith(key) or gpu.place == key or gpu.place.startswith(f"MIG-{key}")


def groups(gpus: Sequence[Gpu], size: int) -> list[list[Gpu]]:
    """Workers' shares: so many GPUs each, the last one with what is left."""
    return [list(gpus[start : start + size]) for start in range(0, len(gpus), size)]
