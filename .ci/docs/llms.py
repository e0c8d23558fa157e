"""llms.txt: what the documentation has, for language models: a line for each page.

The form is that of llmstxt.org: a title, a summary, then sections of links, each with a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

HEADING = re.compile(r"^# (.+)$", re.MULTILINE)
NO_PROSE = re.compile(r"```.*?```|<!--.*?-->", re.DOTALL)
# Lines that are no running text: headings, tables, lists, pictures, quotations and HTML.
MARKS = ("#", "|", "- ", "* ", "![", ">", "<", "1. ")
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
SENTENCE = re.compile(r".+?[.!?](?=\s|$)")


def llms_text(name: str, summary: str, nav: Sequence[Any], page: Callable[[str], str]) -> str:
    """The text of llms.txt.

    ``nav`` is that of mkdocs.yml, and ``page`` gives the Markdown of a file that it names. Raises
    ValueError for a page without a heading or a sentence.
    """
    lines = [f"# {name}", "", f"> {summary}"]
    for section, files in _sections(nav):
        lines += ["", f"## {section}", ""]
        for file in files:
            title, sentence = described(page(file), file)
            lines.append(f"- [{title}]({file}): {sentence}")
    return "\n".join(lines) + "\n"


def _sections(nav: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:
    """Each section with its files; a page that belongs to none is a section by itself."""
    for entry in nav:
        ((title, inside),) = entry.items()
        yield title, [inside] if isinstance(inside, str) else list(inside)


def described(markdown: str, file: str) -> tuple[str, str]:
    """The heading of a page, and the first sentence below it."""
    heading = HEADING.search(markdown)
    if heading is None:
        raise ValueError(f"{file} has no heading; begin it with one: # Title")
    for paragraph in NO_PROSE.sub("", markdown[heading.end() :]).split("\n\n"):
        text = " ".join(paragraph.split())
        if text and not text.startswith(MARKS):
            plain = LINK.sub(r"\1", text).replace("**", "")
            sentence = SENTENCE.match(plain)
            return heading[1], sentence[0] if sentence else plain.rstrip(":") + "."
    raise ValueError(f"{file} has no sentence; say first what the page is about")
