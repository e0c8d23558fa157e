"""Each `surgeon` command that a page names is one, and has the options that are written with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from surgeon.cli import app
from tests.surgeon.commands.test_command_line import commands

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KNOWN = {**commands(get_command(app)), "": {"--help", "--install-completion", "--version"}}
ANYWHERE = {"--help"}
FENCED = re.compile(r"(?ms)^ *```(?:console|bash|sh)\n(.*?)^ *```$")
TYPED = re.compile(r"(?m)^ *(?:\$ )?(surgeon(?: (?:.*\\\n)*.*)?)$")
INLINE = re.compile(r"`(surgeon(?: [^`\n]*)?)`")
OPTION = re.compile(r"(?<!\S)(--?[a-z][\w-]*)")
ALONE = re.compile(r"`(--[a-z][\w-]*)[^`\n]*`")


def typed_on(page: Path) -> list[str]:
    """The commands of a page, in its blocks and within its sentences, each in one line."""
    text = page.read_text(encoding="utf-8")
    blocks = [typed for block in FENCED.findall(text) for typed in TYPED.findall(block)]
    return [line.replace("\\\n", " ") for line in (*blocks, *INLINE.findall(text))]


def named(line: str) -> str:
    """The longest name of a command that a line begins with; empty for `surgeon` alone."""
    words = line.split()[1:]
    names = (" ".join(words[:count]) for count in (2, 1))
    return next((name for name in names if name in KNOWN), "")


def groups() -> set[str]:
    return {name.partition(" ")[0] for name in KNOWN if " " in name}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for line in typed_on(page):
        name, words = named(line), line.split()[1:]
        whole = name or not words or words[0].startswith("-") or words[0] in groups()
        assert whole, f"no command is called so: {line}"
        written = re.split(r"\s[|>&;]|\s#\s", line)[0]
        unknown = set(OPTION.findall(written)) - KNOWN[name] - ANYWHERE
        assert not unknown, (line, unknown)


@pytest.mark.parametrize("page", sorted((ROOT / "docs/how-to").glob("*.md")), ids=lambda p: p.name)
def test_the_options_that_a_how_to_names_alone_are_of_some_command(page: Path) -> None:
    options = set().union(*KNOWN.values())
    assert set(ALONE.findall(page.read_text(encoding="utf-8"))) <= options


def test_the_commands_of_pages_are_found() -> None:
    lines = typed_on(ROOT / "docs/how-to/reading-a-comparison.md")
    assert "surgeon download cmp_… DIR" in lines
    (compared,) = [line for line in lines if line.startswith("surgeon compare") and "csv" in line]
    assert "--validation questions-validation.csv" in compared
    assert named(compared) == "compare"
    assert named("surgeon keys create --scope admin") == "keys create"
