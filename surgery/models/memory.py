"""Measure the memory of one job inside a process that runs many."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

import torch

from surgery.schemas.resolved import PeakMemory

CGROUP = Path("/sys/fs/cgroup")  # version 2: the limits of a container


_before = PeakMemory()  # of this job, before the counters were last reset


def begin_job() -> None:
    """Start measuring the peaks of another job."""
    global _before  # noqa: PLW0603  # the counters, too, are the whole process's
    reset_peak()
    _before = PeakMemory()


def job_peaks() -> PeakMemory:
    """The most memory that this process has held since the job began."""
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return _before.combined(PeakMemory(host=_host_peak(), device=device))


def reset_peak() -> None:
    """Start measuring the peak anew; `job_peaks` still knows the earlier one."""
    global _before  # noqa: PLW0603
    _before = job_peaks()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset VmHWM
    except OSError:
        return  # on other systems the peak is that of the whole process


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work, so that a clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes() -> int:
    """Bytes at the peak: of the GPU if there is one, or else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _host_peak()


def _host_peak() -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", _text(Path("/proc/self/status")))
    if match:
        return int(match[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def resident_bytes(device: torch.device) -> int | None:
    """Bytes of main memory that the process holds now if the device is the CPU; 0 on a GPU.

    None on a system that does not tell.
    """
    if device.type == "cuda":
        return 0
    match = re.search(r"VmRSS:\s+(\d+) kB", _text(Path("/proc/self/status")))
    return int(match[1]) * 1024 if match else None


def available_bytes(device: torch.device) -> int:
    """Bytes that a computation may still take, of the GPU or of the machine or container."""
    if device.type == "cuda":
        # Memory that earlier jobs of this process no longer use stays reserved for the next ones.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    if match is None:  # not Linux: half of the machine's memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    free = int(match[1]) * 1024
    limit, used = _text(CGROUP / "memory.max").strip(), _text(CGROUP / "memory.current")
    if not limit.isdigit() or not used:
        return free
    # The file cache counts as used, but is freed when memory is needed.
    cached = re.search(r"^inactive_file (\d+)$", _text(CGROUP / "memory.stat"), re.MULTILINE)
    own = int(used) - (int(cached[1]) if cached else 0)
    return max(0, min(free, int(limit) - own))


def _text(path: Path) -> str:
    """The content of a system file, or "" if there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def memory_in_use(device: torch.device) -> str:
    """How full the memory is that a computation on this device uses, for a message."""
    used = torch.cuda.memory_allocated(device) if device.type == "cuda" else peak_bytes()
    free = available_bytes(device)
    return f"this job uses {used / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free"
