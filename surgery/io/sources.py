"""Where models and datasets are looked for: the operator's mirrors, the cache and the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from surgery.errors import UnsafeFiles
from surgery.io.regular_files import read_regular

RECORDS = Path(".cache", "huggingface", "download")  # within what hf download writes
COMMIT = r"[0-9a-f]{40}"


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
    def downloads(self) -> Path:
        """The folder of what was downloaded from the Hub, as its own client keeps it."""
        return self.cache / "hub"

    @property
    def datasets(self) -> Path:
        """The folder of checked datasets of mirrors and of the Hub."""
        return self.cache / "datasets"

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


def recorded_revision(files: Iterable[Path]) -> str | None:
    """The commit from which ``hf download --local-dir`` fetched all of these files into a mirror.

    None if it is not recorded: the files came some other way, changed, or are of several commits.
    """
    commits = {_recorded(file) for file in files}
    return commits.pop() if len(commits) == 1 else None


def records_of(file: Path) -> Iterator[Path]:
    """Where the commit of a file may be recorded: in its repository's folder, under its path."""
    for folder in (file.parent, file.parent.parent):  # a config of a dataset is a folder of its own
        yield folder / RECORDS / f"{file.relative_to(folder)}.metadata"


def _recorded(file: Path) -> str | None:
    for path in records_of(file):
        try:
            lines = read_regular(path, 4096).decode().split()
            if file.stat().st_mtime - 1 <= float(lines[2]) and re.fullmatch(COMMIT, lines[0]):
                return lines[0]
        except (OSError, UnsafeFiles, ValueError, IndexError):
            continue
    return None


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
