"""The file of finished cells: one line of JSON each, which several processes may add to."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Key = tuple[str, int, str]  # task, seed, arm


@dataclass
class Results:
    """The finished cells of one setting, in a file that only grows."""

    path: Path
    setting: Json
    lines: dict[Key, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line in self.every(self.path):
            if line["setting"] == self.setting:
                self.lines[line["task"], line["seed"], line["arm"]] = line

    @staticmethod
    def every(path: Path) -> Iterator[Json]:
        """The lines of a file, of any setting, without one that was cut off in the middle."""
        for text in path.read_text().splitlines() if path.exists() else ():
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                continue

    def add(self, key: Key, found: Json) -> None:
        """Add a cell, and write it to disk at once."""
        task, seed, arm = key
        self.lines[key] = {"setting": self.setting, "task": task, "seed": seed, "arm": arm, **found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            cut = file.tell() > 0 and not _ends_with_a_line(file.fileno())
            file.write(b"\n" * cut + json.dumps(self.lines[key]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _ends_with_a_line(descriptor: int) -> bool:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"
