"""SHA-256 of files and of JSON, in hex."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Of a file; read once a process while its size and time stay the same."""
    real = os.path.realpath(path)
    state = Path(real).stat()
    return _file_digest(real, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(real: str, size: int, modified: int) -> str:  # noqa: ARG001  # the cache's key
    return sha256_of(Path(real))


def json_digest(content: object, separators: tuple[str, str] | None = None) -> str:
    """Of content as JSON with sorted keys: equal content, equal digest."""
    canonical = json.dumps(content, sort_keys=True, separators=separators)
    return hashlib.sha256(canonical.encode()).hexdigest()
