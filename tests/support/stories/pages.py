"""A how-to page as a program: its commands, its Python, and what it says they print.

A block `console` has commands after `$ `, each followed by what it prints. A block `python` is
followed by a block `text`, which has what it prints. Blocks of other languages are not run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HOW_TO = Path(__file__).parents[3] / "docs/how-to"
STORIES = (
    "route-tickets.md", "text-similarity.md", "named-entities.md", "tags.md", "yes-no-questions.md",
)  # fmt: skip
READING = ("reading-a-ranking.md", "reading-a-comparison.md")  # go through what is printed
ID = re.compile(r"\b(?:ds|rk|ft|se|cmp|ck)_[0-9a-z]{26}\b")
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_PROGRESS = re.compile(rf"{ID.pattern}: |\S+: \d+ % of |.*━")
_FOLDER = re.compile(r"(?<!\S)/\S*/")
_COMMAND = re.compile(r"(?m)^\$ ((?:.*\\\n)*.*)\n")
_DRAWN = "─━╸╺█"


@dataclass(frozen=True)
class Command:
    """A command as it is typed, and the output that the page shows for it."""

    typed: str
    shown: str

    @property
    def line(self) -> str:
        """The command in one line."""
        return self.typed.replace("\\\n", "")


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each fenced block of a page, in order."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands_of(text: str) -> list[Command]:
    """The commands of a block `console`."""
    before, *parts = _COMMAND.split(text)
    assert not before, f"a block begins with output: {text}"
    return [Command(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]


def shape(text: str) -> str:
    """Text without what differs between two runs.

    That is ids, numbers, folders, the mark of the best row, bars, and where lines break.
    """
    alike = _NUMBER.sub("0", ID.sub("id", _FOLDER.sub("/", text))).replace(" *", " ")
    return " ".join(re.sub(f"[{_DRAWN}]+", "─", alike).split())


def without_progress(printed: str) -> str:
    """What was printed, but for the lines in which a job or a download tells how far it is."""
    lines = [line.rstrip() for line in printed.splitlines() if not _PROGRESS.match(line)]
    text = "\n".join(lines).strip("\n")
    return f"{text}\n" if text else ""


def rewritten(page: str, outputs: Sequence[str]) -> str:
    """A page with these outputs, of its commands and of its Python, in order."""
    left = iter(outputs)

    def block(found: re.Match[str]) -> str:
        language, text = found.groups()
        if language == "console":
            text = "".join(f"$ {it.typed}\n{next(left)}" for it in commands_of(text))
        elif language == "text":
            text = next(left)
        return f"```{language}\n{text}```"

    return BLOCK.sub(block, page)
