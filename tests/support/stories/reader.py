"""Someone who follows a how-to page, command by command, in a folder of their own."""

from __future__ import annotations

import ast
import contextlib
import io
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner

from surgeon.cli import app
from tests.support.stories.pages import ID, Block, Command, commands_of

PLAIN = {"transformers"}  # all that a page's Python may import: nothing of ours


@dataclass
class Reader:
    """What they have seen. Ids of the page are replaced by those that the service gave them."""

    url: str
    ids: dict[str, str] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)

    def follow(self, block: Block) -> list[tuple[str, str]]:
        """Run a block; what the page shows and what was printed, command by command."""
        if block.language == "console":
            return [(each.shown, self._typed(each)) for each in commands_of(block)]
        if block.language == "python":
            self.printed.append(run_python(block.text))
        if block.language == "text":
            return [(block.text, self.printed[-1])]
        return []

    def _typed(self, command: Command) -> str:
        words = [self.ids.get(word, word) for word in shlex.split(command.line)]
        printed = self.run(*words)
        shown, given = (list(dict.fromkeys(ID.findall(it))) for it in (command.shown, printed))
        for known in shown:
            self.ids.setdefault(known, next((it for it in given if it[:3] == known[:3]), known))
        return printed

    def run(self, *words: str) -> str:
        """Run a command and expect success; everything that it prints."""
        if words[0] == "surgeon":
            environment = {"SURGEON_URL": self.url}
            done = CliRunner().invoke(app, list(words[1:]), env=environment)
            assert done.exit_code == 0, (words, done.output)
            self.printed.append(done.output)
        else:
            self.printed.append(subprocess.check_output(words, text=True))
        return self.printed[-1]


def run_python(source: str) -> str:
    """What a page's Python prints. It may import transformers alone."""
    nodes = list(ast.walk(ast.parse(source)))
    assert not any(isinstance(node, ast.Import) for node in nodes)
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names <= PLAIN, names
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(Path.cwd() / "page.py"), "exec"), {})  # noqa: S102  # the page's
    return printed.getvalue()
