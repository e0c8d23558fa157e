"""How a machine's GPUs are found and shared out. No GPU is at hand: a driver's library stands in."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pynvml
import pytest

from tests.support.service.services import Running, embedded_with, wait_until
from worker.supervisor.gpus import Gpu, groups, visible_gpus

NAMES = ("NVIDIA A100", "NVIDIA A100", "NVIDIA H200")
UUIDS = ("GPU-aa11", "GPU-bb22", "GPU-cc33")
DRIVER = """
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return ("GPU-aa11", "GPU-bb22")[handle]
def nvmlDeviceGetName(handle): return "NVIDIA A100"
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
    }.items():  # fmt: skip
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


def test_every_gpu_has_a_worker_of_its_own(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "pynvml.py").write_text(DRIVER)
    paths = [str(tmp_path / "driver"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    with embedded_with(tmp_path / "data", str(mirror), environment) as service:
        wait_until(lambda: len(supervisors(service)) == 2, 60, service.logs)
        first = supervisors(service)
        assert sorted(first) == ["GPU-aa11", "GPU-bb22"]
        wait_until(lambda: service.logs().count("has NVIDIA A100, 80 GiB") == 2, 30, service.logs)
        first["GPU-aa11"].kill()
        wait_until(lambda: len(supervisors(service)) == 2, 60, service.logs)
        assert supervisors(service)["GPU-bb22"].pid == first["GPU-bb22"].pid
