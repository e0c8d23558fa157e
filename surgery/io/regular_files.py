"""Open untrusted files safely: regular files only, without following links, up to a known size.

A folder that a stranger filled may hold pipes (opening one waits for ever), devices, links that
lead out of the folder, and sparse files of any size.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from surgery.errors import UnsafeFiles

KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, max_bytes: int) -> BufferedReader:
    """Open a file for reading, if it is a regular file of at most ``max_bytes``.

    If the last part of the path is a link, it is not followed. Raises UnsafeFiles, also if there
    is no such file.
    """
    try:
        check_regular(path.name, path.lstat(), max_bytes)
        # Without O_NONBLOCK, opening would hang if a pipe took the file's place since the check.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnsafeFiles(f"{path.name} cannot be opened: {error.strerror}") from None
    try:
        check_regular(path.name, os.fstat(descriptor), max_bytes)
    except UnsafeFiles:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most ``max_bytes``. Raises as `open_regular` does."""
    with open_regular(path, max_bytes) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it grew since it was opened
        raise UnsafeFiles(f"{path.name} is larger than {max_bytes:,} bytes")
    return content


def check_regular(name: str, state: os.stat_result, max_bytes: int) -> None:
    """Raise UnsafeFiles unless ``state`` is that of a regular file of at most ``max_bytes``."""
    if not stat.S_ISREG(state.st_mode):
        kind = KINDS.get(stat.S_IFMT(state.st_mode), "not a regular file")
        raise UnsafeFiles(f"{name} is {kind}; put the file itself in its place")
    if state.st_size > max_bytes:
        raise UnsafeFiles(
            f"{name} has {state.st_size:,} bytes; such a file may have at most {max_bytes:,}"
        )
