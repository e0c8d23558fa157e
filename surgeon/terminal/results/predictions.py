"""Shows predictions as a table, beside the rows that they are for if these are at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from surgeon.terminal.tables import DASH, Json, narrow_table

SHOWN = 60  # characters of a row


def prediction_view(result: Json, title: str, rows: Sequence[Json] = ()) -> Group:
    """The predictions in the order of their rows, and how many rows were cut."""
    table = narrow_table(title)
    table.add_column("row", justify="right", no_wrap=True)
    if rows:
        table.add_column("content")
    listed = any(each.get("probabilities") for each in result["predictions"])
    table.add_column("value" if result["problem"] == "regression" else "prediction")
    if listed:
        table.add_column("probabilities")
    for place, each in enumerate(result["predictions"]):
        content = [Text(_content(rows[place]))] if rows else []
        scores = [Text(_probabilities(each))] if listed else []
        table.add_row(str(place + 1), *content, Text(_predicted(each)), *scores)
    return _with_notes(table, result)


def _with_notes(table: Table, result: Json) -> Group:
    return Group(table, *map(Text, _notes(result)))


def _notes(result: Json) -> Iterator[str]:
    if result["truncated"]:
        yield f"rows longer than {result['max_length']} tokens, read in part: {result['truncated']}"


def _content(row: Json) -> str:
    """The texts of a row, shortened."""
    texts = [
        " ".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in row.values()
    ]
    whole = " | ".join(texts)
    return whole if len(whole) <= SHOWN else f"{whole[:SHOWN]}…"


def _predicted(prediction: Json) -> str:
    if "words" in prediction:
        return " ".join(word["label"] or DASH for word in prediction["words"])
    if "labels" in prediction:
        return ", ".join(prediction["labels"]) or DASH
    return f"{prediction['value']:.6g}" if "value" in prediction else str(prediction["label"])


def _probabilities(prediction: Json) -> str:
    return ", ".join(
        f"{each['label']} {each['probability']:.4f}" for each in prediction["probabilities"]
    )
