"""Someone who follows a how-to page, command by command, in a folder of their own."""

from __future__ import annotations

import ast
import contextlib
import io
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner

from surgeon.cli import app
from tests.support.stories.pages import ID, Command, blocks_of, commands_of, without_progress

PLAIN = {"transformers"}  # all that a page's Python may import: nothing of ours


@dataclass
class Reader:
    """Who they are to the service. Ids of the page are replaced by those that they were given."""

    url: str
    ids: dict[str, str] = field(default_factory=dict)

    def follow(self, page: Path) -> Iterator[tuple[str, str]]:
        """Do what a page says; what it shows and what was printed, output by output."""
        answer = ""
        for language, text in blocks_of(page):
            if language == "console":
                for command in commands_of(text):
                    yield command.shown, self._typed(command)
            elif language == "python":
                answer = run_python(text)
            elif language == "text":
                yield text, answer

    def _typed(self, command: Command) -> str:
        words = [self.ids.get(word, word) for word in shlex.split(command.line)]
        printed = self.run(*words)
        given = ID.findall(printed)
        for known in ID.findall(command.shown):
            self.ids.setdefault(known, next((it for it in given if it[:3] == known[:3]), known))
        return printed

    def run(self, *words: str) -> str:
        """Run a command and expect success. Everything that it prints, but for progress bars."""
        if words[0] != "surgeon":
            return subprocess.check_output(words, text=True)
        done = CliRunner().invoke(app, list(words[1:]), env={"SURGEON_URL": self.url})
        assert done.exit_code == 0, (words, done.output)
        return without_progress(done.output)


def run_python(source: str) -> str:
    """What a page's Python prints. It may import transformers alone."""
    nodes = list(ast.walk(ast.parse(source)))
    assert not any(isinstance(node, ast.Import) for node in nodes)
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names <= PLAIN, names
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(Path.cwd() / "page.py"), "exec"), {})  # the page's own
    return printed.getvalue()
