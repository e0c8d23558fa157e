"""Folders of an object store on this machine's disk, shared by its processes.

A folder is there whole or not at all. Whoever uses one holds it by a lock, which ends with the
process at the latest; of the others, the one that was not used for longest makes way.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from surgery.io.folders import first_wins, is_intact, make_room, put_away, whole_folder

log = logging.getLogger("surgeon.fetched")


class _Torn(Exception):
    """A folder that was fetched is not what its manifest says."""


@dataclass
class Held:
    """A folder that stays until it is released."""

    path: Path
    _locks: list[int] = field(default_factory=list)  # open descriptors

    def release(self) -> None:
        """Let it go; a second time has no effect."""
        while self._locks:
            os.close(self._locks.pop())


@dataclass(frozen=True)
class FetchedFolders:
    """``limit`` is in bytes for all of them; default: a share of the disk."""

    root: Path
    limit: int | None = None

    def hold(self, key: str) -> Held | None:
        """The folder of a key, marked as used; None where it is not here. A damaged one goes."""
        folder = self._path(key)
        lock = _lock(folder, fcntl.LOCK_SH)
        if lock is None:
            return None
        if is_intact(folder):
            os.utime(folder)
            return Held(folder, [lock])
        os.close(lock)
        log.warning("%s is damaged, fetching it again", folder)
        _remove(folder)
        return None

    def add(self, key: str, size: int, fetch: Callable[[Path], None]) -> Held | None:
        """Have a folder of so many bytes fetched; None where what came is not whole.

        Where two do so at once, the second to finish leaves the first one's and holds that.
        """
        self.make_room(size)
        target = self._path(key)
        with first_wins(target), suppress(_Torn), ExitStack() as failed:
            with whole_folder(target) as building:
                lock = _lock(building, fcntl.LOCK_SH)
                assert lock is not None, "nobody else knows of this folder"
                failed.callback(os.close, lock)
                fetch(building)
                if not is_intact(building):
                    raise _Torn
            failed.pop_all()
            return Held(target, [lock])
        return self.hold(key)

    def make_room(self, size: int = 0) -> None:
        """Remove what was not used for longest and nobody holds, until ``size`` more fit."""
        make_room(self.root, size, self.limit, remove=_remove)

    def _path(self, key: str) -> Path:
        return self.root / quote(key, safe="")


def _remove(folder: Path) -> bool:
    """Put a folder away; False where somebody holds it."""
    lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        return False
    try:
        return put_away(folder)
    finally:
        os.close(lock)


def _lock(folder: Path, how: int) -> int | None:
    """A descriptor that holds the folder; None where it is not there, or held against us."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, how)
        # Whoever held it may have put it away meanwhile.
        if os.path.samestat(folder.stat(), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
