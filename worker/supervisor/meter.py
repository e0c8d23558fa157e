"""Measures what an attempt uses: the time of its devices, and the memory of its processes."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from surgery.schemas.answers.usage import Usage
from surgery.schemas.resolved import PeakMemory


class Meter:
    """What an attempt has used since ``began``, a monotonic time, on so many equal devices."""

    def __init__(self, device: str, devices: int, began: float) -> None:
        self._device, self._devices, self._began = device, devices, began
        self._peak = PeakMemory()
        self._lock = threading.Lock()

    def note(self, peak: PeakMemory) -> None:
        """Take a measurement of memory into account."""
        with self._lock:
            self._peak = self._peak.combined(peak)

    def usage(self) -> Usage:
        """What was used until now."""
        seconds = (time.monotonic() - self._began) * self._devices
        with self._lock:
            peak = self._peak
        return Usage(worker_seconds={self._device: round(seconds, 3)}, peak_memory_bytes=peak)


def reset_host_peak(pid: int) -> None:
    """Let the kernel measure a process's memory anew; a system that cannot does nothing."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def host_peak(pid: int) -> PeakMemory:
    """The most memory that a process has held, as far as the system tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return PeakMemory()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return PeakMemory(host=int(found[1]) * 1024 if found else None)
