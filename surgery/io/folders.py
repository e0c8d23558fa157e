"""Folders that exist whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.errors import CheckpointDamaged

MANIFEST = "manifest.json"
CHUNK = 1 << 20


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """Build a folder aside; on leaving, sync it, write its manifest and rename it to ``target``.

    The manifest lists size and SHA-256 of every file. After a crash at any point ``target`` either
    is not there or is complete.
    """
    # Not the process id: containers that share a volume have the same ones.
    building = target.with_name(f".building-{target.name}-{secrets.token_hex(8)}")
    building.mkdir(parents=True)
    try:
        yield building
        manifest = {"files": {path.name: _seal(path) for path in sorted(building.iterdir())}}
        path = building / MANIFEST
        path.write_text(json.dumps(manifest, indent=1))
        _sync(path)
        _sync(building)
        building.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def move_folder(folder: Path, target: Path) -> None:
    """Rename a complete folder; to another file system, copy it aside and rename there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        incoming = target.with_name(f".incoming-{target.name}")
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.copytree(folder, incoming)
        for path in (*incoming.iterdir(), incoming):
            _sync(path)
        incoming.rename(target)
        shutil.rmtree(folder)
    _sync(target.parent)


def link_folder(folder: Path, target: Path) -> Path:
    """A folder of links to the files of another; copies of them on another file system."""
    if not target.is_dir():
        target.mkdir(parents=True)
        for path in folder.iterdir():
            try:
                (target / path.name).hardlink_to(path)
            except OSError:
                shutil.copyfile(path, target / path.name)
    return target


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File name → size and sha256."""
    files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())["files"]
    return files


def is_plain_name(name: str) -> bool:
    """Whether it names a file of a folder itself: no path into it or out of it."""
    return name == PurePosixPath(name).name and name not in {"", ".."} and "\0" not in name


def check_plain(folder: Path) -> None:
    """Raise OSError unless a folder holds plain files alone: no links, folders or pipes."""
    if folder.is_symlink():
        raise OSError(f"{folder.name} is a link")
    for path in folder.iterdir():
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(f"{folder.name} holds {path.name!r}, which is no plain file")


def is_intact(folder: Path) -> bool:
    """Whether the folder holds exactly what its manifest says."""
    try:
        files = read_manifest(folder)
        return all(_describe(folder / name) == entry for name, entry in files.items())
    except (OSError, ValueError, KeyError):
        return False


def check_intact(folder: Path, but: str = "") -> None:
    """Compare the files with the manifest, where there is one; ``but`` one may have been edited.

    Raises CheckpointDamaged, naming a file that is missing or differs.
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
    """When it was marked as used; 0 where it is not there."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process was first
        return 0.0


def bytes_on_disk(folder: Path) -> int:
    """What its files take; 0 where it is not there."""
    try:
        return sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    except OSError:
        return 0


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _seal(path: Path) -> dict[str, Any]:
    _sync(path)
    return _describe(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
