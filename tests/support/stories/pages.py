"""A how-to page as a program: its commands, its Python, and what it says they print.

    python -m tests.support.stories.pages     runs every page and writes what is printed into it

A block `console` has commands after `$ `, each followed by what it prints, or some of its lines;
`…` alone on a line stands for others. A block `python` is followed by a block `text`. Blocks of
other languages are not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HOW_TO = Path(__file__).parents[3] / "docs/how-to"
STORIES = (
    "route-tickets.md", "text-similarity.md", "named-entities.md", "tags.md", "yes-no-questions.md",
)  # fmt: skip
ID = re.compile(r"\b(?:ds|rk|ft|ck)_[0-9a-z]{26}\b")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
_CONTINUED = "\\\n"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, and the output that the page shows for it."""

    line: str
    shown: str


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands_of(block: Block) -> list[Command]:
    """The commands of a block `console`."""
    parts = block.text.replace(_CONTINUED, "").split("$ ")
    assert parts[0] == "", f"a block begins with output: {block.text}"
    commands = [part.partition("\n") for part in parts[1:]]
    return [Command(line, shown) for line, _, shown in commands]


def shape(text: str) -> str:
    """Text without what differs between two runs: ids, numbers, where lines break, the best row."""
    alike = NUMBER.sub("0", ID.sub("id", text).replace(" *", " "))
    return " ".join(re.sub("[─━╸╺]+", "─", alike).split())


def missing_from(printed: str, shown: str) -> list[str]:
    """The parts of what a page shows, divided at `…`, that were not printed."""
    parts = (shape(part) for part in re.split(r"(?m)^…$", shown))
    return [part for part in parts if part not in shape(printed)]
