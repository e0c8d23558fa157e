"""The same examples with shuffled labels: the command says that nothing was learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.examples.files import EXAMPLES
from surgeon.terminal import terminal
from tests.support.models.mirror import REAL_MODEL
from tests.support.service.services import Running
from tests.support.stories.reader import Reader
from tests.support.stories.shuffled import write_shuffled

COLUMNS = {
    "tickets": "text=message,label=team",
    "similarity": "text=first,text_pair=second,label=similarity",
    "entities": "tokens=tokens,label=tags",
    "tags": "text=text,label=tags",
    "questions": "text=question,text_pair=passage,label=answer",
}
NOTHING = "warning: the model is no better than a constant prediction: "


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_last_line_says_that_nothing_was_learned(
    name: str, embedded_service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.console, "width", 1000)  # so that no line is broken
    train, validation = map(str, write_shuffled(name, tmp_path))
    reader = Reader(embedded_service.client.url)
    files = (train, "--validation", validation, "--columns", COLUMNS[name])
    printed = reader.run("surgeon", "tune", REAL_MODEL, *files, "--last-k", "2")
    last = printed.rstrip().splitlines()[-1]
    assert last.startswith(NOTHING), printed
    assert "Try this: see whether the labels belong to their texts" in last
