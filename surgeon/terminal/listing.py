"""Lists of jobs and datasets, in which no name and no id is ever cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

Json = Mapping[str, Any]
GAP = "  "


@dataclass(frozen=True)
class Listing:
    """Entries with the same columns: each on one line if all fit, else on several.

    ``names`` are the headers. Where a whole entry is too long for a line, the columns from
    ``below`` on stand on lines of their own, and whatever is still too long is wrapped.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = [self.names, *self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        whole = sum(widths) + len(GAP) * (len(widths) - 1) <= options.max_width
        for place, row in enumerate(table):
            style = "" if place else "bold"
            for line in [_padded(row, widths)] if whole else self._folded(row, widths):
                yield Text(line, style=style)

    def _folded(self, row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        yield _padded(row[: self.below], widths)
        if row is not self.names:
            for cell in filter(None, row[self.below :]):
                yield GAP + cell


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()


def jobs_listing(jobs: Sequence[Json], names: Mapping[str, str]) -> Listing:
    """Jobs; ``names`` are those of uploaded datasets, by id."""
    rows = []
    for job in jobs:
        percent = (job["progress"] or {}).get("percent")
        done = f" {percent or 0:.0f} %" if job["phase"] else ""
        model, dataset = job["resolved"]["model"]["id"], job["resolved"]["dataset"]["id"]
        named = f" ({names[dataset]})" if dataset in names else ""
        head = [job["id"], job["kind"], job["status"] + done, moment(job["created_at"])]
        rows.append([*head, job["name"] or "", f"{model} on {dataset}{named}"])
    headers = ("id", "kind", "status", "created", "name", "model and dataset")
    return Listing(headers, rows, below=4)


def datasets_listing(datasets: Sequence[Json]) -> Listing:
    """Stored datasets."""
    rows = []
    for each in datasets:
        counts = f"{each['rows']['train']:,} + {each['rows']['validation']:,}"
        head = [each["id"], each["problem"], counts, moment(each["created_at"])[:10]]
        rows.append([*head, each["name"] or ""])
    return Listing(("id", "problem", "train + validation", "stored", "name"), rows, below=4)


def moment(at: str) -> str:
    """A time as people read it, to the minute."""
    return at[:16].replace("T", " ")
