"""Count the devices of this machine, which limit how many processes run side by side."""

from __future__ import annotations

import os
from pathlib import Path

from surgery.errors import Fault, TrainingInvalid

NVIDIA = Path("/proc/driver/nvidia/gpus")  # has a folder for each GPU if the driver is loaded


def gpus_here(folder: Path = NVIDIA) -> int:
    """The number of NVIDIA GPUs that this process may use, counted without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
    if count and visible is not None:
        return min(count, len([each for each in visible.split(",") if each.strip()]))
    return count


def cores_here() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_processes(processes: int, gpus: int) -> None:
    """Raise TrainingInvalid for more processes than GPUs, or than cores if there is no GPU."""
    most, what = (gpus, "GPUs") if gpus else (cores_here(), "processor cores")
    if processes > most:
        raise TrainingInvalid(
            f"{processes} processes need as many {what}, but there are {most}; each process "
            "trains on a separate one",
            [Fault(f"at most {most} here", pointer="/processes")],
        )
