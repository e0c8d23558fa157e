"""Folders of an object store on this machine's disk, shared by its processes.

A folder is there whole or not at all. Whoever uses one holds it by a lock, which ends with the
process at the latest; of the others, the one that was not used for longest makes way.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from surgery.io.folders import bytes_on_disk, is_intact, last_used

log = logging.getLogger("surgeon.fetched")
DISK_SHARE = 0.25  # of what is free on the disk, and of what the folders take already
ABANDONED_SECONDS = 24 * 3600.0  # a folder still being fetched then is a crash's


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
        self._remove(folder)
        return None

    def add(self, key: str, size: int, fetch: Callable[[Path], None]) -> Held | None:
        """Have a folder of so many bytes fetched; None where what came is not whole.

        Where two do so at once, the second to finish leaves the first one's and holds that.
        """
        self.make_room(size)
        target = self._path(key)
        with self._building(target) as (building, held):
            fetch(building)
            if not is_intact(building):
                held.release()
                return None
            try:
                building.rename(target)
            except OSError:
                held.release()
                if not target.is_dir():
                    raise
                return self.hold(key)
        held.path = target
        return held

    @contextmanager
    def _building(self, target: Path) -> Iterator[tuple[Path, Held]]:
        """A folder aside, held; removed unless it was renamed."""
        building = target.with_name(f".fetching-{secrets.token_hex(8)}")
        building.mkdir(parents=True)
        lock = _lock(building, fcntl.LOCK_SH)
        held = Held(building, [] if lock is None else [lock])
        try:
            yield building, held
        except BaseException:
            held.release()
            raise
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def make_room(self, size: int = 0) -> None:
        """Remove what was not used for longest and nobody holds, until ``size`` more fit."""
        self.root.mkdir(parents=True, exist_ok=True)
        sizes = {path: bytes_on_disk(path) for path in self.root.iterdir()}
        taken = sum(sizes.values())
        limit = self.limit
        if limit is None:
            limit = int(DISK_SHARE * (shutil.disk_usage(self.root).free + taken))
        used = {path: last_used(path) for path in sizes}
        for path in sorted(used, key=lambda path: used[path]):
            aside = path.name.startswith(".")
            abandoned = aside and time.time() - used[path] > ABANDONED_SECONDS
            # For one that is larger than all may be, no room can be made: the others stay.
            helps = not aside and taken + size > limit >= size
            if (abandoned or helps) and self._remove(path):
                taken -= sizes[path]

    def _remove(self, folder: Path) -> bool:
        """Out of the way in one move, so that nobody meets half of it; False where it is held."""
        lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is None:
            return False
        aside = folder.with_name(f".removing-{secrets.token_hex(8)}")
        try:
            folder.rename(aside)
        except FileNotFoundError:  # another process was about to remove it, and did
            return False
        finally:
            os.close(lock)
        log.info("removing %s", folder)
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def _path(self, key: str) -> Path:
        return self.root / quote(key, safe="")


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
