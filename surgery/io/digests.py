"""SHA-256 of files and of JSON, in hex."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, which is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, remembered by this process until its size or time changes."""
    real = os.path.realpath(path)
    state = Path(real).stat()
    return _file_digest(real, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(real: str, size: int, modified: int) -> str:  # noqa: ARG001  # the cache's key
    return sha256_of(Path(real))


def json_digest(content: object, separators: tuple[str, str] | None = None) -> str:
    """The SHA-256 of content as JSON with sorted keys, so that equal content has one digest."""
    canonical = json.dumps(content, sort_keys=True, separators=separators)
    return hashlib.sha256(canonical.encode()).hexdigest()
