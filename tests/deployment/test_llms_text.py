"""llms.txt, which the documentation's site has for language models."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest
import yaml

from tests.support.service.deployment import ROOT

BESIDE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("llms", ROOT / ".ci/docs/llms.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


llms = _loaded()


def page(name: str) -> str:
    """The Markdown of a page of the site."""
    path = ROOT / BESIDE[name] if name in BESIDE else ROOT / "docs" / name
    return path.read_text()


def test_every_page_of_the_site_has_a_line() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    text = llms.llms_text("Layer Surgeon", "A summary", config["nav"], page)
    assert text.startswith("# Layer Surgeon\n\n> A summary\n\n## ")
    sections = [next(iter(entry)) for entry in config["nav"]]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == sections
    links = re.findall(r"^- \[([^\]]+)\]\(([^)]+)\): (.+)$", text, re.MULTILINE)
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {file for _, file, _ in links} == written | set(BESIDE)
    for title, file, sentence in links:
        assert f"# {title}\n" in page(file)
        assert re.search(r"[.!?]$", sentence), (file, sentence)
        assert "](" not in sentence, "a link from another folder would lead nowhere"


@pytest.mark.parametrize(
    ("markdown", "sentence"),
    [
        (
            "# T\n\nOne of `a.b` and 2.5, in\ntwo lines. Two.\n",
            "One of `a.b` and 2.5, in two lines.",
        ),
        ("# T\n\n```sh\nno prose. At all.\n```\n\n| a | b. |\n\n## S\n\nAt last.\n", "At last."),
        ("# T\n\nA [page](../x.md#y) says **it**. More.\n", "A page says it."),
        ("# T\n\nThree promises, always:\n\n- a\n", "Three promises, always."),
    ],
)
def test_a_page_is_described_by_its_first_sentence(markdown: str, sentence: str) -> None:
    assert llms.described(markdown, "t.md") == ("T", sentence)


@pytest.mark.parametrize(
    ("markdown", "word"), [("No heading.\n", "heading"), ("# T\n\n```sh\nls\n```\n", "sentence")]
)
def test_a_page_that_says_nothing_fails_the_build(markdown: str, word: str) -> None:
    with pytest.raises(ValueError, match=rf"t\.md has no {word}"):
        llms.described(markdown, "t.md")
