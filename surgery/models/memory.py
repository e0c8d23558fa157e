"""Peak memory of one job inside a process that runs many."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")  # version 2: the limits of a container


def reset_peak() -> None:
    """Forget the peak so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset VmHWM
    except OSError:
        return  # elsewhere the peak is that of the process


def settle(device: torch.device) -> None:
    """Wait for what a GPU has been told to do, so that a clock sees it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes() -> int:
    """Bytes at the peak: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def resident_bytes(device: torch.device) -> int | None:
    """What the process holds now where its own memory is the device's; 0 on a GPU.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", _text(Path("/proc/self/status")))
    return int(found[1]) * 1024 if found else None


def available_bytes(device: torch.device) -> int:
    """Bytes that a computation may still take: of the GPU, else of the machine or container."""
    if device.type == "cuda":
        # What earlier jobs of this process took and no longer use is kept for the next ones.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    if found is None:  # no Linux: half of the machine
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    free = int(found[1]) * 1024
    limit, used = _text(CGROUP / "memory.max").strip(), _text(CGROUP / "memory.current")
    if not limit.isdigit() or not used:
        return free
    # What files are cached in counts as used, yet makes way.
    cached = re.search(r"^inactive_file (\d+)$", _text(CGROUP / "memory.stat"), re.MULTILINE)
    own = int(used) - (int(cached[1]) if cached else 0)
    return max(0, min(free, int(limit) - own))


def _text(path: Path) -> str:
    """What a file of the system says; nothing where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def in_use(device: torch.device) -> str:
    """How full the memory is that a computation on this device uses, in words."""
    own = torch.cuda.memory_allocated(device) if device.type == "cuda" else peak_bytes()
    free = available_bytes(device)
    return f"{own / 2**30:.2f} GiB of this job's own, {free / 2**30:.2f} GiB free"
