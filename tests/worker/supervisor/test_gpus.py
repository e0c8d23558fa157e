"""How a machine's GPUs are found and shared out. No GPU is at hand: a driver's library stands in."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from tests.support.service.services import Running, embedded_with, wait_until
from worker.supervisor.gpus import Gpu, groups, visible_gpus

NAMES = ("NVIDIA A100", "NVIDIA A100", "NVIDIA H200")
UUIDS = ("GPU-aa11", "GPU-bb22", "GPU-cc33")
SLICES = {(1, 0): "MIG-dd44", (1, 1): "MIG-ee55"}
DRIVER = """
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetMigMode(handle): raise NVMLError
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return ("GPU-aa11", "GPU-bb22")[handle]
def nvmlDeviceGetName(handle): return "NVIDIA A100"
def nvmlDeviceGetCudaComputeCapability(handle): return [8, 0]
def nvmlDeviceGetMemoryInfo(handle):
    class Memory: total = 80 << 30
    return Memory
"""


class Memory:
    """What the driver says of each."""

    total = 80 << 30


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs."""
    for name, value in {
        "nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: UUIDS[handle],
        "nvmlDeviceGetName": lambda handle: NAMES[handle],
        "nvmlDeviceGetMemoryInfo": lambda _: Memory,
        "nvmlDeviceGetCudaComputeCapability": lambda gpu: [(8, 0), (8, 0), (9, 0)][gpu],
        "nvmlDeviceGetMigMode": lambda _: [pynvml.NVML_DEVICE_MIG_DISABLE] * 2,
    }.items():  # fmt: skip
        monkeypatch.setattr(pynvml, name, value)


@pytest.fixture
def cut_up(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of them as two slices, which the driver calls (1, 0) and (1, 1)."""

    def slice_of(gpu: int, index: int) -> tuple[int, int]:
        if index > 1:
            raise pynvml.NVMLError_NotFound()
        return gpu, index

    def mode(gpu: int) -> list[int]:
        if gpu == 2:
            raise pynvml.NVMLError_NotSupported()
        return [pynvml.NVML_DEVICE_MIG_ENABLE if gpu == 1 else pynvml.NVML_DEVICE_MIG_DISABLE, 0]

    def memory(handle: int | tuple[int, int]) -> object:
        return SimpleNamespace(total=(10 + 10 * handle[1]) << 30) if handle in SLICES else Memory

    for name, value in {
        "nvmlDeviceGetMigMode": mode,
        "nvmlDeviceGetMaxMigDeviceCount": lambda _: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": slice_of,
        "nvmlDeviceGetGpuInstanceId": lambda handle: 3 + handle[1],
        "nvmlDeviceGetComputeInstanceId": lambda _: 0,
        "nvmlDeviceGetUUID": lambda handle: SLICES.get(handle) or UUIDS[handle],
        "nvmlDeviceGetName": lambda handle: "a slice" if handle in SLICES else NAMES[handle],
        "nvmlDeviceGetMemoryInfo": memory,
    }.items():
        monkeypatch.setattr(pynvml, name, value)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, dict(zip(UUIDS, NAMES, strict=True))),
        ("2,0", {"2": "NVIDIA H200", "0": "NVIDIA A100"}),
        ("GPU-cc, GPU-aa11", {"GPU-cc": "NVIDIA H200", "GPU-aa11": "NVIDIA A100"}),
        ("1,7,0", {"1": "NVIDIA A100"}),
        ("", {}),
        ("-1", {}),
    ],
    ids=["all", "numbers", "names", "unknown", "none", "minus one"],
)
def test_the_gpus_that_cuda_would_see(visible: str | None, found: dict[str, str]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert {gpu.key: gpu.name for gpu in visible_gpus(environment)} == found


@pytest.mark.usefixtures("cut_up")
@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, {"GPU-aa11": 80, "MIG-dd44": 10, "MIG-ee55": 20, "GPU-cc33": 80}),
        ("MIG-ee55", {"MIG-ee55": 20}),
        ("MIG-GPU-bb22/4/0", {"MIG-GPU-bb22/4/0": 20}),
        ("MIG-GPU-bb22/3/0", {"MIG-GPU-bb22/3/0": 10}),
        ("1", {"1": 10}),
        ("GPU-bb", {"GPU-bb": 10}),
        ("2,MIG-dd44", {"2": 80, "MIG-dd44": 10}),
        ("MIG-ff66,0", {}),
        ("MIG-GPU-aa11/3/0", {}),
    ],
    ids=[
        "all",
        "name",
        "numbers",
        "first numbers",
        "its GPU",
        "its GPU's name",
        "mixed",
        "unknown",
        "of no GPU",
    ],
)
def test_a_slice_of_a_gpu_has_its_own_memory(visible: str | None, found: dict[str, int]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    gpus = visible_gpus(environment)
    assert {gpu.key: gpu.memory_bytes >> 30 for gpu in gpus} == found
    assert all((gpu.name == "a slice") == (gpu.memory_bytes < Memory.total) for gpu in gpus)


def test_a_machine_without_a_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError_LibraryNotFound()

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert visible_gpus({}) == []


def test_shares_are_of_one_size_but_the_last() -> None:
    gpus = [Gpu(key, "x", 1) for key in UUIDS]
    assert groups(gpus, 1) == [[gpu] for gpu in gpus]
    assert groups(gpus, 2) == [gpus[:2], gpus[2:]]
    assert groups([], 1) == []
    assert str(Gpu("0", "NVIDIA A100", 80 << 30)) == "NVIDIA A100, 80 GiB"


def supervisors(service: Running) -> dict[str, psutil.Process]:
    """The device that each was given, and who has it."""
    found = {}
    for process in service.workers():
        device = process.environ().get("CUDA_VISIBLE_DEVICES")
        if device is not None:
            found[device] = process
    return found


def with_two_gpus(folder: Path) -> dict[str, str]:
    """An environment where a driver's library for two is found, and nothing says how many threads.

    Eight cores are claimed, more than the machine that runs this may have.
    """
    (folder / "driver").mkdir()
    (folder / "driver" / "pynvml.py").write_text(DRIVER)
    (folder / "driver" / "sitecustomize.py").write_text("import os\nos.cpu_count = lambda: 8\n")
    paths = [str(folder / "driver"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": ""}


def threads_of(service: Running) -> list[str]:
    """How many threads each process that runs jobs may use; without those that just begin or end."""
    found = []
    for child in service.children():
        with suppress(psutil.Error):
            found.append(child.environ().get("OMP_NUM_THREADS", ""))
    return [threads for threads in found if threads]


@pytest.mark.slow
def test_every_gpu_has_a_worker_of_its_own(mirror: Path, tmp_path: Path) -> None:
    with embedded_with(tmp_path / "data", str(mirror), with_two_gpus(tmp_path)) as service:
        wait_until(lambda: len(supervisors(service)) == 2, 60, service.logs)
        first = supervisors(service)
        assert sorted(first) == ["GPU-aa11", "GPU-bb22"]
        wait_until(lambda: service.logs().count("has NVIDIA A100, 80 GiB") == 2, 30, service.logs)
        first["GPU-aa11"].kill()
        wait_until(lambda: len(supervisors(service)) == 2, 60, service.logs)
        assert supervisors(service)["GPU-bb22"].pid == first["GPU-bb22"].pid
        # Half of the machine's cores, though the process above these two has all of them.
        wait_until(lambda: threads_of(service) == ["4", "4"], 60, service.logs)
