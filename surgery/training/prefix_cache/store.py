"""Store the states of a frozen prefix: in memory, or in files that jobs share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surgery.io.digests import file_digest
from surgery.io.folders import complete_folder, first_wins, make_room, put_away, read_manifest
from surgery.models.distributed import present_share
from surgery.models.memory import available_bytes
from surgery.training.prefix_cache.states import Layout, States
from surgery.training.prefix_cache.trace import CannotReplay

log = logging.getLogger("surgeon.prefix")
STATES = "states.npy"
# numpy has no bfloat16: its bits are stored as integers.
ARRAYS = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.int16}

MEMORY_SHARE = 0.25  # of the free memory when a run starts; the rest is for the run and others

Medium = Literal["memory", "disk"]


def read_states(folder: Path, dtype: torch.dtype) -> Tensor | None:
    """The stored states, mapped and marked as used, or None. Damaged ones are removed."""
    if not folder.is_dir():
        return None
    try:
        if file_digest(folder / STATES) != read_manifest(folder)[STATES]["sha256"]:
            raise ValueError(f"{STATES} is not what was written")
        os.utime(folder)
        return _mapped(folder / STATES, dtype)
    except (OSError, ValueError, KeyError) as error:
        log.warning("states in %s are damaged, computing again: %s", folder, error)
        put_away(folder)
        return None


def write_states(
    folder: Path, shape: tuple[int, int], dtype: torch.dtype, fill: Callable[[Tensor], None]
) -> Tensor:
    """Write states of this shape to a file with ``fill``, and map them; other values are zero.

    If two processes do so at once, the file of the first to finish stays.
    """
    with first_wins(folder), complete_folder(folder) as building:
        path = building / STATES
        array = np.lib.format.open_memmap(path, mode="w+", dtype=ARRAYS[dtype], shape=shape)
        _allocate(path)
        fill(torch.from_numpy(array.view(np.ndarray)).view(dtype))
        array.flush()
        del array
    return _mapped(folder / STATES, dtype)


def _allocate(path: Path) -> None:
    """Reserve the whole file on the disk: writing to a mapped hole is fatal if the disk is full."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _mapped(path: Path, dtype: torch.dtype) -> Tensor:
    array: np.ndarray[Any, Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return torch.from_numpy(array.view(np.ndarray)).view(dtype)


@dataclass(frozen=True)
class Room:
    """How much room there is for states; they may be written to ``folder``, if there is one.

    The limits are by default a quarter of the memory (of the GPU if the model is on one) and of the
    disk that are free when a run starts.
    """

    folder: Path | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class StatesSpec:
    """What states of one split are needed: their key, layout, width and dtype."""

    key: str
    layout: Layout
    width: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the flat states, including the row of zeros."""
        return self.layout.states + 1, self.width

    @property
    def bytes(self) -> int:
        """The bytes that the states take."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


@dataclass(frozen=True)
class StoredStates:
    """The states of every split, and where they are stored."""

    medium: Medium
    states: dict[str, States]
    reason: str
    reused: bool = False


Fill = Callable[[str, States], None]

# The states of the last run in memory, by key: the next run of this process may need them again.
_in_memory: dict[str, Tensor] = {}


def release_memory() -> None:
    """Free the memory that states of an earlier run take."""
    _in_memory.clear()


class Store:
    """Finds stored states, or has them computed by ``fill``, which fills those of one split."""

    def __init__(
        self, specs: Mapping[str, StatesSpec], room: Room, device: torch.device, fill: Fill
    ) -> None:
        self._specs, self._room, self._device, self._fill = specs, room, device, fill
        self.bytes = sum(spec.bytes for spec in specs.values())
        keys = {spec.key for spec in specs.values()}
        for key in [key for key in _in_memory if key not in keys]:
            del _in_memory[key]

    def find(self, medium: Medium) -> StoredStates | None:
        """The states of all splits, if an earlier run stored them on this medium."""
        states = {}
        for name, spec in self._specs.items():
            flat = self._find(medium, spec)
            if flat is not None:
                states[name] = States(spec.layout, flat)
        if len(states) < len(self._specs):
            return None
        reason = f"an earlier run left them {_WHERE[medium]}"
        return StoredStates(medium, states, reason, reused=True)

    def _find(self, medium: Medium, spec: StatesSpec) -> Tensor | None:
        if medium == "memory":
            return _in_memory.get(spec.key)
        folder = self._room.folder
        return None if folder is None else read_states(folder / spec.key, spec.dtype)

    def compute(self, medium: Medium) -> StoredStates:
        """Compute and store the states. Raises CannotReplay if they do not fit."""
        return self._to_memory() if medium == "memory" else self._to_disk()

    def _to_memory(self) -> StoredStates:
        room = self._room.memory_bytes
        if room is None:
            taken = sum(flat.nbytes for flat in _in_memory.values())
            room = int(MEMORY_SHARE * (available_bytes(self._device) + taken))
        if self._device.type == "cpu":  # each process of a run stores all states
            room //= present_share().world
        self._check_room(room, "of memory")
        states = {name: self._filled(name, spec) for name, spec in self._specs.items()}
        _in_memory.update({spec.key: states[name].flat for name, spec in self._specs.items()})
        return StoredStates("memory", states, self._fitting(room))

    def _filled(self, name: str, spec: StatesSpec) -> States:
        if spec.key in _in_memory:
            return States(spec.layout, _in_memory[spec.key])
        flat = torch.zeros(spec.shape, dtype=spec.dtype, device=self._device)
        states = States(spec.layout, flat)
        self._fill(name, states)
        return states

    def _to_disk(self) -> StoredStates:
        folder = self._room.folder
        if folder is None:
            raise CannotReplay("this run has no folder to keep them in")
        keys = {spec.key for spec in self._specs.values()}
        try:
            room = make_room(folder, self.bytes, self._room.disk_bytes, keep=keys)
            self._check_room(room, "on disk")
            states = {name: self._written(folder, name) for name in self._specs}
        except OSError as error:
            raise CannotReplay(f"{folder} cannot be written: {error}") from error
        return StoredStates("disk", states, self._fitting(room))

    def _written(self, folder: Path, name: str) -> States:
        spec = self._specs[name]
        path = folder / spec.key
        flat = read_states(path, spec.dtype)
        if flat is None:

            def fill(empty: Tensor) -> None:
                self._fill(name, States(spec.layout, empty))

            flat = write_states(path, spec.shape, spec.dtype, fill)
        return States(spec.layout, flat)

    def _fitting(self, room: int) -> str:
        return f"{in_mebibytes(self.bytes)} of the {in_mebibytes(room)} they may take"

    def _check_room(self, room: int, where: str) -> None:
        if self.bytes > room:
            raise CannotReplay(
                f"the states take {in_mebibytes(self.bytes)}, more than the {in_mebibytes(room)} "
                f"{where} that they may take"
            )


_WHERE = {"memory": "in memory", "disk": "on disk"}


def in_mebibytes(size: float) -> str:
    """A number of bytes as text, in MiB."""
    return f"{size / 2**20:,.1f} MiB"
