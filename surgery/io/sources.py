"""Where models and data may come from: the operator's mirrors, the cache, the Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sources:
    """The places a reference is looked up in, in this order: each mirror, then the Hub.

    ``cache`` is a folder this process may write. ``endpoint`` is the Hub's address where it is
    not the public one.
    """

    mirrors: tuple[Path, ...]
    cache: Path
    offline: bool = False
    token: str | None = field(default=None, repr=False)
    endpoint: str | None = None

    @property
    def tokens(self) -> Path:
        """Where tokenised splits are kept."""
        return self.cache / "tokens"

    @property
    def prefixes(self) -> Path:
        """Where the states of frozen prefixes are kept."""
        return self.cache / "prefixes"


def mirror_path(sources: Sources, *parts: str) -> Path | None:
    """The first mirror's file or folder of that name, links resolved; None where there is none."""
    found = (path_in_mirror(mirror, *parts) for mirror in sources.mirrors)
    path = next((path for path in found if path is not None), None)
    return path and Path(os.path.realpath(path))


def path_in_mirror(mirror: Path, *parts: str) -> Path | None:
    """A mirror's file or folder of that name; None where there is none.

    Each part is one name, never a path. A link that leads out of its mirror counts as none: a
    mirror must not open the rest of the disk.
    """
    if any(part in {"", ".", ".."} or set(part) & set("/\\\0") for part in parts):
        return None
    root = Path(os.path.realpath(mirror))
    path = Path(root, *parts)
    real = Path(os.path.realpath(path))
    try:
        return path if real.is_relative_to(root) and real.exists() else None
    except OSError:  # a name that no file can have, such as one of over 255 bytes
        return None
