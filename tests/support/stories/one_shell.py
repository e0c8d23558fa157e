"""A page whose commands are run in one shell: what they print must be what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
ANY = "…"  # stands for any text; a command that has it is the reader's to fill in
ID = re.compile(r"\b(pr|key|sk|ds|rk|ft|cmp|se|ck)_01\w*…?")
BETWEEN = "\x1e"  # a character that no command prints


@dataclass
class Step:
    """A command of a page, and the lines that the page shows after it."""

    command: str
    shown: list[str] = field(default_factory=list)

    def mismatches(self, printed: list[str]) -> list[str]:
        """The shown lines that the command did not print, each in its place."""
        pairs = zip(self.shown, [*printed, *[""] * len(self.shown)], strict=False)
        return [f"{self.command}: {b!r}, not {a!r}" for a, b in pairs if not _fits(a, b)]


def _fits(shown: str, printed: str) -> bool:
    pattern = re.escape(ID.sub(rf"\1_{ANY}", shown)).replace(re.escape(ANY), ".*")
    return re.fullmatch(pattern, printed) is not None


def steps_of(page: Path) -> list[Step]:
    """The commands of a page's ``console`` blocks, in order, that can be run as they stand."""
    steps: list[Step] = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            else:
                steps[-1].shown.append(line)
    return [step for step in steps if ANY not in step.command]


def run_page(page: Path, folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Run a page's commands in one shell, in ``folder``. Returns what differs from the page."""
    steps = steps_of(page)
    (folder / "bin").mkdir()
    program = folder / "bin" / "surgeon"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m surgeon "$@"\n')
    program.chmod(0o755)
    lines = ["exec 2>&1"]
    for step in steps:
        lines += [f"printf '{BETWEEN}'", f"{step.command} || echo 'exit code' $?"]
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, **environment, "PATH": path},
    )  # fmt: skip
    printed = [each.splitlines() for each in done.stdout.split(BETWEEN)[1:]]
    assert len(printed) == len(steps), done.stdout
    failed = [
        f"{step.command}: {lines}"
        for step, lines in zip(steps, printed, strict=True)
        if lines and lines[-1].startswith("exit code ")
    ]
    return failed + [
        each for step, lines in zip(steps, printed, strict=True) for each in step.mismatches(lines)
    ]
