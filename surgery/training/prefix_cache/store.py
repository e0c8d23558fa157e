"""Where the outputs of a frozen prefix are kept: in memory, or in files that jobs share."""

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
# numpy has no bfloat16: its bits are kept as integers.
ARRAYS = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.int16}

MEMORY_SHARE = 0.25  # of what is free when a run starts; the rest is for the run, and for others

Place = Literal["memory", "disk"]


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
        put_away(folder)
        return None


def write_states(
    folder: Path, shape: tuple[int, int], dtype: torch.dtype, fill: Callable[[Tensor], None]
) -> Tensor:
    """Have states of this shape filled in, in a file, and map them; zero where nothing was put.

    Where two processes do so at once, the second to finish leaves the first one's.
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
    """Have the disk set the whole file aside: writing to a mapped hole of a full disk is fatal."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _mapped(path: Path, dtype: torch.dtype) -> Tensor:
    array: np.ndarray[Any, Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return torch.from_numpy(array.view(np.ndarray)).view(dtype)


@dataclass(frozen=True)
class Room:
    """How much room there is for states: ``folder`` may be written, None where there is none.

    Default: a quarter of the memory (of the GPU where the model is on one) and of the disk that are
    free when a run starts.
    """

    folder: Path | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class Wanted:
    """The states of one split, under their key."""

    key: str
    layout: Layout
    width: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Of the flat states, the zero row included."""
        return self.layout.states + 1, self.width

    @property
    def bytes(self) -> int:
        """What they take."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


@dataclass(frozen=True)
class Kept:
    """The states of every split, where they are and since when."""

    place: Place
    states: dict[str, States]
    reason: str
    reused: bool = False


Fill = Callable[[str, States], None]

# The states of the last run that held some, by key: the next run in this process may want them.
_held: dict[str, Tensor] = {}


def release_held() -> None:
    """Give the memory back that states of an earlier run take."""
    _held.clear()


class Store:
    """Finds the wanted states or has them computed: ``fill`` computes those of one split."""

    def __init__(
        self, wanted: Mapping[str, Wanted], room: Room, device: torch.device, fill: Fill
    ) -> None:
        self._wanted, self._room, self._device, self._fill = wanted, room, device, fill
        self.bytes = sum(each.bytes for each in wanted.values())
        keys = {each.key for each in wanted.values()}
        for key in [key for key in _held if key not in keys]:
            del _held[key]

    def found(self, place: Place) -> Kept | None:
        """All of them, where an earlier run left them in that place."""
        flat = {name: self._find(place, each) for name, each in self._wanted.items()}
        states = {
            name: States(self._wanted[name].layout, each)
            for name, each in flat.items()
            if each is not None
        }
        if len(states) < len(flat):
            return None
        return Kept(place, states, f"an earlier run left them {_WHERE[place]}", reused=True)

    def _find(self, place: Place, wanted: Wanted) -> Tensor | None:
        if place == "memory":
            return _held.get(wanted.key)
        folder = self._room.folder
        return None if folder is None else read_states(folder / wanted.key, wanted.dtype)

    def keep(self, place: Place) -> Kept:
        """Compute and keep them. Raises CannotReplay where they do not fit."""
        return self._in_memory() if place == "memory" else self._on_disk()

    def _in_memory(self) -> Kept:
        room = self._room.memory_bytes
        if room is None:
            taken = sum(each.nbytes for each in _held.values())
            room = int(MEMORY_SHARE * (available_bytes(self._device) + taken))
        if self._device.type == "cpu":  # processes of one run each keep their own
            room //= present_share().world
        self._fits(room, "of memory")
        states = {name: self._filled(name, each) for name, each in self._wanted.items()}
        _held.update({each.key: states[name].flat for name, each in self._wanted.items()})
        return Kept("memory", states, f"{told(self.bytes)} of the {told(room)} they may take")

    def _filled(self, name: str, wanted: Wanted) -> States:
        if wanted.key in _held:
            return States(wanted.layout, _held[wanted.key])
        flat = torch.zeros(wanted.shape, dtype=wanted.dtype, device=self._device)
        states = States(wanted.layout, flat)
        self._fill(name, states)
        return states

    def _on_disk(self) -> Kept:
        folder = self._room.folder
        if folder is None:
            raise CannotReplay("this run has no folder to keep them in")
        keys = {each.key for each in self._wanted.values()}
        try:
            room = make_room(folder, self.bytes, self._room.disk_bytes, keep=keys)
            self._fits(room, "on disk")
            states = {name: self._written(folder, name) for name in self._wanted}
        except OSError as error:
            raise CannotReplay(f"{folder} cannot be written: {error}") from error
        return Kept("disk", states, f"{told(self.bytes)} of the {told(room)} they may take")

    def _written(self, folder: Path, name: str) -> States:
        wanted = self._wanted[name]
        path = folder / wanted.key
        flat = read_states(path, wanted.dtype)
        if flat is None:

            def fill(empty: Tensor) -> None:
                self._fill(name, States(wanted.layout, empty))

            flat = write_states(path, wanted.shape, wanted.dtype, fill)
        return States(wanted.layout, flat)

    def _fits(self, room: int, where: str) -> None:
        if self.bytes > room:
            raise CannotReplay(
                f"the states take {told(self.bytes)}, more than the {told(room)} {where} that they "
                "may take"
            )


_WHERE = {"memory": "in memory", "disk": "on disk"}


def told(size: float) -> str:
    """A size in words."""
    return f"{size / 2**20:,.1f} MiB"
