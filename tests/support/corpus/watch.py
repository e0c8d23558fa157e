"""An audit hook that notes what a process must not do with a stranger's model or file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORBIDDEN = (
    "socket.", "subprocess.", "os.exec", "os.system", "os.posix_spawn", "os.fork", "pty.",
    "pickle.find_class", "ftplib.", "http.client.", "urllib.", "webbrowser.", "smtplib.",
)  # fmt: skip
# Making a pair of connected sockets is how an event loop wakes itself.
HARMLESS = {"socket.__new__", "socket.gethostname"}
# What an interpreter and its libraries read of the machine.
SYSTEM = ("/proc", "/sys", "/dev", "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/mime.types")
SYSTEM_FILES = ("/etc/localtime", "/etc/os-release", "/etc/gitconfig")


class Watch:
    """What was forbidden and was done while it was on. A hook stays in its process for ever."""

    def __init__(self, *roots: Path) -> None:
        installed = (sys.prefix, sys.base_prefix, Path(__file__).parents[3])
        self._roots = tuple(os.path.realpath(root) for root in (*installed, *roots)) + SYSTEM
        self._on = False
        self.noted: list[str] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def on(self) -> Iterator[list[str]]:
        """Note from now on, what every thread does."""
        self.noted, self._on = [], True
        try:
            yield self.noted
        finally:
            self._on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            self._opened(arguments[0])
        elif event.startswith(FORBIDDEN) and event not in HARMLESS:
            self.noted.append(f"{event} {arguments!r:.200}")

    def _opened(self, path: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor that is open
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # a link is judged by its own place
        inside = any(name == root or name.startswith(f"{root}/") for root in self._roots)
        if not inside and name not in SYSTEM_FILES:
            self.noted.append(f"open {name}")
