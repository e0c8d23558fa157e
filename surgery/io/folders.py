"""Folders that appear only when they are complete, and eviction of those not used for longest."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.errors import CheckpointDamaged
from surgery.io.digests import sha256_of

log = logging.getLogger("surgeon.folders")
MANIFEST = "manifest.json"
BUILDING = ".building-"  # how the names begin of what is not complete yet
CHUNK = 1 << 20
DISK_SHARE = 0.25  # of the free space on the disk plus what the folders take already
ABANDONED_SECONDS = 24 * 3600.0  # a folder still being built after that was left by a crash


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Build a folder under a temporary name and rename it to ``target`` at the end.

    A failure leaves nothing behind. Raises OSError if ``target`` exists and is not empty.
    """
    # Not the process id: containers that share a volume have the same process ids.
    building = target.with_name(f"{BUILDING}{target.name}-{secrets.token_hex(8)}")
    building.mkdir(parents=True)
    try:
        yield building
        building.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """A `whole_folder` that is synced and has a manifest with size and SHA-256 of every file.

    After a crash at any point ``target`` either does not exist or is complete.
    """
    with whole_folder(target) as building:
        yield building
        manifest = {"files": {path.name: _seal(path) for path in sorted(building.iterdir())}}
        path = building / MANIFEST
        path.write_text(json.dumps(manifest, indent=1))
        sync(path)
        sync(building)


@contextmanager
def first_wins(target: Path) -> Iterator[None]:
    """Build ``target`` inside; if another process finished it first, keep that process's folder."""
    try:
        yield
    except OSError:
        if not target.is_dir():
            raise


def move_folder(folder: Path, target: Path) -> None:
    """Rename a complete folder; onto another file system, copy it and rename the copy there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with whole_folder(target) as building:
            shutil.copytree(folder, building, dirs_exist_ok=True)
            for path in (*building.iterdir(), building):
                sync(path)
        shutil.rmtree(folder)
    sync(target.parent)


def link_folder(folder: Path, target: Path) -> Path:
    """Make a folder of hard links to the files of another, or of copies if links are impossible."""
    if not target.is_dir():
        with whole_folder(target) as building:
            link_files(folder, building)
    return target


def link_files(folder: Path, target: Path) -> None:
    """Put the files of one folder into another, as hard links or, if that is impossible, copies."""
    for path in folder.iterdir():
        try:
            (target / path.name).hardlink_to(path)
        except OSError:
            shutil.copyfile(path, target / path.name)


def put_away(folder: Path) -> bool:
    """Rename a folder away, then delete it, so that nobody sees half of it; False if it stays."""
    aside = folder.with_name(f".removing-{secrets.token_hex(8)}")
    try:
        folder.rename(aside)
    except OSError:  # another process was first, or this one may not remove it
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def make_room(
    root: Path,
    need: int = 0,
    limit: int | None = None,
    *,
    keep: Collection[str] = (),
    remove: Callable[[Path], bool] = put_away,
) -> int:
    """Remove the folders not used for longest, until ``need`` more bytes may be written.

    ``limit`` is the number of bytes that all folders may take together, by default a share of the
    disk. Folders whose name is in ``keep`` stay, and so do those for which ``remove`` returns
    False. Returns how many bytes may be written. If ``need`` bytes cannot be freed at all, only
    what crashes left behind is removed.
    """
    root.mkdir(parents=True, exist_ok=True)
    sizes = {path: bytes_on_disk(path) for path in root.iterdir()}
    used = {path: last_used(path) for path in sizes}
    ended = time.time() - ABANDONED_SECONDS
    abandoned = {path for path in sizes if path.name.startswith(".") and used[path] < ended}
    unused = {path for path in sizes if not path.name.startswith(".") and path.name not in keep}
    taken, free = sum(sizes.values()), shutil.disk_usage(root).free
    if limit is None:
        limit = int(DISK_SHARE * (free + taken))
    room = min(limit - taken, free)
    most = max(0, room + sum(sizes[path] for path in abandoned | unused))
    for path in sorted(abandoned | unused, key=lambda path: used[path]):
        helps = room < need <= most
        if (path in abandoned or helps) and remove(path):
            log.info("removed %s to make room", path)
            room += sizes[path]
    return room if need <= most else most


def remove_older(root: Path, age_seconds: float, pattern: str = "*") -> None:
    """Remove the subfolders not used for so long; several processes may do this at once.

    Those that a crash has left half built or half removed, whose names are hidden, go after a day.
    """
    for path in root.glob(pattern):
        hidden = path.name.startswith(".")
        limit = min(age_seconds, ABANDONED_SECONDS) if hidden else age_seconds
        if path.is_dir() and time.time() - last_used(path) > limit:
            put_away(path)


def mark_used(folder: Path) -> None:
    """Let a folder stay for longer. A confined process is not allowed to: its supervisor has."""
    with suppress(OSError):
        os.utime(folder)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entry for each file name: ``bytes`` and ``sha256``."""
    files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())["files"]
    return files


def is_plain_name(name: str) -> bool:
    """Whether this is the name of a file directly in a folder, and not a path."""
    return name == PurePosixPath(name).name and name not in {"", ".."} and "\0" not in name


def check_plain(folder: Path) -> None:
    """Raise OSError unless a folder holds only regular files: no links, folders or pipes."""
    if folder.is_symlink():
        raise OSError(f"{folder.name} is a link")
    for path in folder.iterdir():
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(f"{folder.name} holds {path.name!r}, which is not a regular file")


def is_intact(folder: Path) -> bool:
    """Whether the folder holds exactly what its manifest says."""
    try:
        files = read_manifest(folder)
        return all(_describe(folder / name) == entry for name, entry in files.items())
    except (OSError, ValueError, KeyError):
        return False


def check_intact(folder: Path, but: str = "") -> None:
    """Compare the files with the manifest, if there is one, except the file called ``but``.

    Raises CheckpointDamaged, which names a file that is missing or differs.
    """
    if not (folder / MANIFEST).is_file():
        return
    for name, entry in read_manifest(folder).items():
        path = folder / name
        if name == but:
            continue
        if not path.is_file():
            raise CheckpointDamaged(f"{folder} lacks {name}; download the checkpoint again")
        if _describe(path) != entry:
            raise CheckpointDamaged(
                f"{path} is damaged: size or SHA-256 differ from {MANIFEST}; download it again"
            )


def last_used(folder: Path) -> float:
    """When the folder was last marked as used, in seconds since 1970; 0 if it does not exist."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process was first
        return 0.0


def bytes_on_disk(folder: Path) -> int:
    """The bytes that the folder's files take on disk; 0 if it does not exist."""
    try:
        return sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    except OSError:
        return 0


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _seal(path: Path) -> dict[str, Any]:
    sync(path)
    return _describe(path)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
