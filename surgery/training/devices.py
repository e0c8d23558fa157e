"""How many processes this machine can run side by side, each on a device of its own."""

from __future__ import annotations

import os
from pathlib import Path

from surgery.errors import Fault, TrainingInvalid

NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder for each, where the driver is loaded


def gpus_here(folder: Path = NVIDIA) -> int:
    """NVIDIA GPUs that this process may use, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
    if found and visible is not None:
        return min(found, len([each for each in visible.split(",") if each.strip()]))
    return found


def cores_here() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_processes(processes: int, gpus: int) -> None:
    """Raise TrainingInvalid for more processes than GPUs, or than cores where there is no GPU."""
    most, what = (gpus, "GPUs") if gpus else (cores_here(), "processor cores")
    if processes > most:
        raise TrainingInvalid(
            f"{processes} processes need as many {what}, and there are {most}; each trains on one "
            "of its own",
            [Fault(f"at most {most} here", pointer="/processes")],
        )
