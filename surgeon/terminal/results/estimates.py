"""Shows what fine-tunes and searches would take, and what these numbers are based on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from surgeon.terminal.tables import DASH, narrow_table

Json = Mapping[str, Any]
# On two lines, so that the widest numbers fit 80 columns.
COLUMNS = (
    *("k", "lowest\nlayer", "trained\nparameters", "peak\nMiB", "checkpoint\nMiB"),
    *("first\nepoch s", "later\nepoch s", "total s"),
)
LENGTHS = {
    "job": "as job {job} counted them",
    "words": "by the words of the dataset",
    "first_rows": "by the words of the dataset's first rows",
    "unknown": "not known: taken to be --max-length for every row, so that seconds are the most "
    "they can be",
}


def estimate_view(answer: Json) -> Group:
    """The memory and time of each fine-tune, and where these numbers come from."""
    table = narrow_table("")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in answer["rows"]:
        seconds = row["seconds"] or {}
        table.add_row(
            *(_counted(row[name]) for name in ("k", "lowest_layer", "trainable_parameters")),
            *(_mebibytes(row[name]) for name in ("peak_memory_bytes", "checkpoint_bytes")),
            *(_counted(seconds.get(name)) for name in ("first_epoch", "later_epoch", "total")),
        )
    notes = [*_speed_notes(answer["throughput"]), *_length_note(answer["lengths"])]
    return Group(table, *map(Text, [*notes, *_search_note(answer.get("search"))]))


def _speed_notes(speed: Json | None) -> Iterator[str]:
    if speed is None:  # of a service of the first versions, before any fine-tune
        yield "seconds: not known until a fine-tune has finished"
        return
    parts = [speed["basis"], speed["device"], speed["precision"]]
    if speed["jobs"]:
        parts.append(f"{speed['jobs']} fine-tunes" if speed["jobs"] > 1 else "1 fine-tune")
    if speed.get("measured_at"):
        parts.append(f"{speed['worker']} at {speed['measured_at'][:19].replace('T', ' ')}")
    yield f"seconds: {', '.join(part for part in parts if part)}"
    if speed.get("accuracy"):
        yield f"{'why' if speed['basis'] == 'none' else 'accuracy'}: {speed['accuracy']}"


def _length_note(lengths: Json) -> Iterator[str]:
    mean = lengths["mean_tokens"]
    told = f"{mean:g} a row, " if mean is not None else ""
    yield f"tokens: {told}{LENGTHS[lengths['source']].format(job=lengths.get('job'))}"


def _search_note(search: Json | None) -> Iterator[str]:
    if search is not None:
        budget, singles = search["budget_seconds"], search["singles_seconds"]
        peak = _mebibytes(search["peak_memory_bytes"])
        yield (
            f"search: {search['candidates']} candidates, at most {_counted(budget)} s; each layer "
            f"alone would take {_counted(singles)} s; peak {peak} MiB"
        )


def _counted(value: float | None) -> str:
    """A number; of those of 1,000 and more, fractions say nothing."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:,.1f}"


def _mebibytes(size: int | None) -> str:
    return _counted(None if size is None else size / 2**20)
