"""Where models and datasets are looked for: the operator's mirrors, the cache and the Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sources:
    """The places where models and datasets are looked for: each mirror in order, then the Hub.

    ``cache`` is a folder this process may write to. ``endpoint`` is the Hub's address if it is not
    the public one.
    """

    mirrors: tuple[Path, ...]
    cache: Path
    offline: bool = False
    token: str | None = field(default=None, repr=False)
    endpoint: str | None = None

    @property
    def tokens(self) -> Path:
        """The folder of tokenised splits."""
        return self.cache / "tokens"

    @property
    def prefixes(self) -> Path:
        """The folder of the hidden states of frozen prefixes."""
        return self.cache / "prefixes"


def mirror_path(sources: Sources, *parts: str) -> Path | None:
    """The file or folder of that name in the first mirror that has one, with links resolved."""
    paths = (path_in_mirror(mirror, *parts) for mirror in sources.mirrors)
    path = next((path for path in paths if path is not None), None)
    return path and Path(os.path.realpath(path))


def path_in_mirror(mirror: Path, *parts: str) -> Path | None:
    """The file or folder of that name in a mirror, or None.

    Each part is one name, never a path. A link that leads out of the mirror is ignored, since a
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
