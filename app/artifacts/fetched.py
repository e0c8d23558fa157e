"""Local copies of folders from an object store, shared by the processes of this machine.

A copy is always complete. A process that uses one holds a lock on it, which ends with the process
at the latest. If room is needed, the least recently used copies that nobody holds are removed.
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
    """A folder that was fetched does not match its manifest."""


@dataclass
class HeldFolder:
    """A folder that is not removed before it is released."""

    path: Path
    _locks: list[int] = field(default_factory=list)  # open descriptors

    def release(self) -> None:
        """Allow the folder to be removed; calling it again has no effect."""
        while self._locks:
            os.close(self._locks.pop())


@dataclass(frozen=True)
class FetchedFolders:
    """The local copies. ``limit`` is their total size in bytes; None is a share of the disk."""

    root: Path
    limit: int | None = None

    def hold(self, key: str) -> HeldFolder | None:
        """The local copy of a key, or None if there is none. A damaged copy is removed."""
        folder = self._path(key)
        lock = _lock(folder, fcntl.LOCK_SH)
        if lock is None:
            return None
        if is_intact(folder):
            os.utime(folder)
            return HeldFolder(folder, [lock])
        os.close(lock)
        log.warning("%s is damaged; it is fetched again", folder)
        _remove(folder)
        return None

    def add(self, key: str, size: int, fetch: Callable[[Path], None]) -> HeldFolder | None:
        """Fetch a folder of ``size`` bytes and hold it; None if what came is incomplete.

        If two processes fetch the same folder, the second to finish holds the first one's copy.
        """
        self.make_room(size)
        target = self._path(key)
        with first_wins(target), suppress(_Torn), ExitStack() as failed:
            with whole_folder(target) as building:
                lock = _lock(building, fcntl.LOCK_SH)
                assert lock is not None, "no other process knows this folder yet"
                failed.callback(os.close, lock)
                fetch(building)
                if not is_intact(building):
                    raise _Torn
            failed.pop_all()
            return HeldFolder(target, [lock])
        return self.hold(key)

    def make_room(self, size: int = 0) -> None:
        """Remove the least recently used copies that nobody holds until ``size`` more bytes fit."""
        make_room(self.root, size, self.limit, remove=_remove)

    def _path(self, key: str) -> Path:
        return self.root / quote(key, safe="")


def _remove(folder: Path) -> bool:
    """Remove a folder; False if a process holds it."""
    lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        return False
    try:
        return put_away(folder)
    finally:
        os.close(lock)


def _lock(folder: Path, how: int) -> int | None:
    """A locked descriptor of the folder; None if there is none or another lock excludes ours."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, how)
        # The process that held the lock may have removed the folder meanwhile.
        if os.path.samestat(folder.stat(), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
