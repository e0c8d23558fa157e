"""No table of the command line cuts a name, an id or a number, however narrow the terminal."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from app.api.examples import answers
from surgeon.terminal.listing import datasets_listing, jobs_listing
from surgeon.terminal.results.comparisons import comparison_view
from surgeon.terminal.results.estimates import estimate_view
from surgeon.terminal.results.rankings import ranking_view
from surgeon.terminal.results.searches import search_view
from surgeon.terminal.tables import (
    finetune_view,
    queue_table,
    wide_table,
    workers_table,
)

LONG = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
DATASET = "ds_01kasz3v7d9q6m8x2c4n5b7t1w"


def job(**changes: Any) -> dict[str, Any]:
    resolved = {"model": {"id": LONG}, "dataset": {"id": DATASET}}
    return {**answers.COMPARISON, "name": "first try", "resolved": resolved, **changes}


VIEWS: dict[str, RenderableType] = {
    "ranking": ranking_view(answers.RANKING_RESULT, LONG),
    "finetune": finetune_view(answers.FINETUNE_RESULT, LONG),
    "search": search_view(answers.SEARCH_RESULT, LONG),
    "comparison": comparison_view(answers.COMPARISON_RESULT, LONG),
    "estimate": estimate_view(answers.ESTIMATE),
    "workers": workers_table(answers.WORKERS["data"]),
    "queue": queue_table(answers.QUEUE),
    "jobs": jobs_listing([job(), job(status="running", phase="train")], {DATASET: "tickets.csv"}),
    "datasets": datasets_listing([{**answers.DATASET, "name": "a long name of many words " * 5}]),
}


def printed(view: RenderableType, width: int) -> str:
    text = StringIO()
    Console(width=width, file=text).print(view, crop=False)
    return text.getvalue()


def words(text: str) -> list[str]:
    return sorted(re.findall(r"[\w./:+-]+", text.replace("█", "")))


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", VIEWS)
def test_nothing_is_cut(name: str, width: int) -> None:
    whole, narrow = printed(VIEWS[name], 400), printed(VIEWS[name], width)
    assert "…" not in narrow
    if width == 40:  # a word that is longer than a line is folded
        return
    headers = set(words(whole)) - set(words(narrow))
    assert headers <= {"name", "model", "and", "dataset"}, narrow  # a fold has no headers
    if width == 80:
        assert max(map(len, narrow.splitlines())) <= 80, narrow


def test_jobs_are_told_by_kind_name_model_and_dataset() -> None:
    lines = [line.rstrip() for line in printed(VIEWS["jobs"], 80).splitlines()]
    assert lines[1].split() == [
        answers.COMPARISON["id"],
        "comparison",
        "succeeded",
        "2026-11-23",
        "10:00",
    ]
    assert lines[2:5] == ["  first try", f"  {LONG} on", f"{DATASET} (tickets.csv)"]
    assert "running 0 %" in lines[5]
    (header, first, _) = printed(VIEWS["jobs"], 200).splitlines()
    assert header.split() == ["id", "kind", "status", "created", "name", "model", "and", "dataset"]
    assert first.endswith(f"first try  {LONG} on {DATASET} (tickets.csv)")


def test_columns_share_what_is_left_by_what_they_need() -> None:
    table = wide_table()
    for name in ("id", "note", "also"):
        table.add_column(name)
    table.add_row("ft_01kasz3v7d9q6m8x2c4n5b7t1w", "short note", "many words " * 20)
    lines = printed(table, 80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "ft_01kasz3v7d9q6m8x2c4n5b7t1w   short note   many words" in lines[3]
