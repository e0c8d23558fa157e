"""States of frozen prefixes in files, shared by the jobs of a machine and mapped into memory.

Each split's lie in a folder named by their key, written whole or not at all. What was not used for
longest makes way for new ones.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgery.folder import bytes_on_disk, complete_folder, last_used, read_manifest
from surgery.sources import file_digest

log = logging.getLogger("surgeon.prefix")
STATES = "states.npy"
DISK_SHARE = 0.25  # of what is free on the disk, and of what the files hold already
ABANDONED_SECONDS = 24 * 3600.0  # a folder still being built then is a crash's
# numpy has no bfloat16: its bits are kept as integers.
ARRAYS = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.int16}


def read_states(folder: Path, dtype: torch.dtype) -> Tensor | None:
    """The mapped states, marked as used; None where there are none. Damaged ones are removed."""
    if not folder.is_dir():
        return None
    try:
        if file_digest(folder / STATES) != read_manifest(folder)[STATES]["sha256"]:
            raise ValueError(f"{STATES} is not what was written")
        os.utime(folder)
        return _mapped(folder / STATES, dtype)
    except (OSError, ValueError, KeyError) as error:
        log.warning("states in %s are damaged, computing again: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def write_states(
    folder: Path, shape: tuple[int, int], dtype: torch.dtype, fill: Callable[[Tensor], None]
) -> Tensor:
    """Have states of this shape filled in, in a file, and map them; zero where nothing was put.

    Where two processes do so at once, the second to finish leaves the first one's.
    """
    try:
        with complete_folder(folder) as building:
            path = building / STATES
            array = np.lib.format.open_memmap(path, mode="w+", dtype=ARRAYS[dtype], shape=shape)
            _allocate(path)
            fill(torch.from_numpy(array.view(np.ndarray)).view(dtype))
            array.flush()
            del array
    except OSError:
        if not folder.is_dir():
            raise
    return _mapped(folder / STATES, dtype)


def _allocate(path: Path) -> None:
    """Have the disk set the whole file aside: writing to a mapped hole of a full disk is fatal."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _mapped(path: Path, dtype: torch.dtype) -> Tensor:
    array: np.ndarray[Any, Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return torch.from_numpy(array.view(np.ndarray)).view(dtype)


def make_room(folder: Path, need: int, limit: int | None, keep: Collection[str]) -> int:
    """Remove states that were not used for longest until so many bytes more may be written.

    ``limit`` is for all files together, default: a share of the disk. Names in ``keep`` stay.
    Returns the bytes that may be written; fewer than ``need`` where that is too much, and then
    nothing was removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = {path: bytes_on_disk(path) for path in folder.iterdir()}
    free = shutil.disk_usage(folder).free
    if limit is None:
        limit = int(DISK_SHARE * (free + sum(held.values())))
    going = [path for path in _oldest_first(held) if path.name not in keep]
    removable = sum(held[path] for path in going)
    room = min(limit - sum(held.values()), free)
    if room + removable < need:
        return max(0, room + removable)
    for path in going:
        if room >= need:
            break
        log.info("removing %s to make room for other states", path)
        shutil.rmtree(path, ignore_errors=True)
        room += held[path]
    return room


def _oldest_first(paths: Collection[Path]) -> Iterator[Path]:
    """Complete folders and abandoned ones, by when they were last used."""
    used = {path: last_used(path) for path in paths}
    for path in sorted(used, key=lambda path: used[path]):
        building = path.name.startswith(".")
        if not building or time.time() - used[path] > ABANDONED_SECONDS:
            yield path
