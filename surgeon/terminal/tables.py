"""Shows workers and fine-tunes as tables, and sets the style of all tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
DASH = "–"
LONG_NAME = 12  # characters


class WholeTable(Table):
    """A table of which nothing is ever cut.

    Columns are narrowed as far as their longest words allow. If the terminal is still narrower,
    the table keeps the width that it needs, and the terminal wraps its lines.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        frame = self._extra_width + sum(left + right for left, right in self._sides())
        needs = [self._needs(console, options, place) for place in range(len(self.columns))]
        least = frame + sum(need.minimum for need in needs)
        room = max(options.max_width, least) - frame
        for column, width in zip(self.columns, shared_out(needs, room), strict=True):
            column.width = width
        yield from super().__rich_console__(console, options.update_width(room + frame))

    def _sides(self) -> Iterator[tuple[int, int]]:
        """The blanks to the left and right of each column's cells."""
        count = len(self.columns)
        for place in range(count):
            _, right, _, left = self.padding
            first, last = place == 0, place == count - 1
            yield (
                0 if first and not self.pad_edge else left,
                0 if last and not self.pad_edge else right,
            )

    def _needs(self, console: Console, options: ConsoleOptions, place: int) -> Measurement:
        column = self.columns[place]
        cells = [
            Text.from_markup(column.header) if isinstance(column.header, str) else column.header
        ]
        sizes = [Measurement.get(console, options, cell) for cell in [*cells, *column.cells]]
        most = max(size.maximum for size in sizes)
        return Measurement(most if column.no_wrap else max(s.minimum for s in sizes), most)


def shared_out(needs: Sequence[Measurement], room: int) -> list[int]:
    """The widths of columns in so much room, which is enough for their minima.

    Columns that need less than an equal share of what is left get all that they need.
    """
    widths = [need.minimum for need in needs]
    left = room - sum(widths)
    wanting = [place for place, need in enumerate(needs) if need.maximum > need.minimum]
    wanting.sort(key=lambda place: needs[place].maximum - needs[place].minimum)
    for number, place in enumerate(wanting):
        more = min(needs[place].maximum - widths[place], left // (len(wanting) - number))
        widths[place] += more
        left -= more
    return widths


def wide_table(title: str = "") -> Table:
    """A table with few columns."""
    return WholeTable(title=title, title_justify="left", box=SIMPLE, pad_edge=False)


def narrow_table(title: str = "") -> Table:
    """A table with many columns, one blank apart."""
    table = wide_table(title)
    table.padding = (0, 1, 0, 0)
    return table


def subject_of(job: Json) -> str:
    """The model and the dataset of a job."""
    return f"{job['resolved']['model']['id']} on {job['resolved']['dataset']['id']}"


def workers_table(workers: Sequence[Json]) -> Table:
    """One row for each worker."""
    table = narrow_table()
    for name in ("id", "state", "kinds", "devices", "precisions", "processes", "last heard of"):
        table.add_column(name, no_wrap=name in {"id", "state"})
    for each in workers:
        ended = "stopped" if each["stopped_at"] else "lost"
        state = ("busy" if each["busy"] else "idle") if each["alive"] else ended
        table.add_row(
            each["id"],
            state,
            ", ".join(each["kinds"]),
            ", ".join(device["name"] for device in each["devices"]),
            ", ".join(each["precisions"]),
            str(each["max_processes"]),
            each["heartbeat_at"][:19].replace("T", " "),
        )
    return table


FINDINGS = {"ok": "green", "warning": "yellow", "failed": "red"}


def findings_table(findings: Sequence[Json]) -> Table:
    """One row for each thing that was checked; what to do stands below what was found."""
    table = narrow_table()
    for name in ("checked", "", "found"):
        table.add_column(name, no_wrap=name != "found", overflow="fold")
    for each in findings:
        style = FINDINGS[each["state"]]
        told = each["found"] if each["remedy"] is None else f"{each['found']}\n{each['remedy']}"
        table.add_row(each["checked"], Text(each["state"], style=style), Text(told))
    return table


def queue_table(answer: Json) -> Table:
    """One row for each kind of job; numbers of the own project, and in brackets of all."""
    table = wide_table()
    for name in ("kind", "queued", "running", "paused", "workers", "idle", "expected wait"):
        table.add_column(name, no_wrap=True)
    for kind, of in answer["kinds"].items():
        counts = (
            f"{of['project'][state]} ({of['all'][state]})"
            for state in ("queued", "running", "paused")
        )
        wait = of["expected_wait_seconds"]
        shown = DASH if wait is None else f"{wait:g} s"
        table.add_row(kind, *counts, str(of["workers_alive"]), str(of["workers_idle"]), shown)
    return table


def finetune_view(result: Json, title: str) -> Group:
    """The evaluations of a fine-tune, and notes on what was trained."""
    return Group(_epochs_table(result, title), *_finetune_notes(result))


def _epochs_table(result: Json, title: str) -> Table:
    """One row for each evaluation, the best with a star, and one for a constant prediction."""
    table = narrow_table(title)
    names = list(result["best"]["metrics"])
    tracked = result["ranking_at_start"] is not None
    for name in ("epoch", "step", "train loss", *names, *["τ to start"] * tracked):
        table.add_column(_in_two_lines(name), justify="right")
    for report in result["epochs"]:
        values = [report["train_loss"], *(report["metrics"][name] for name in names)]
        if tracked:
            values.append(report["ranking"]["kendall_tau"])
        best = " *" if report["epoch"] == result["best"]["epoch"] else ""
        table.add_row(f"{report['epoch']:g}{best}", str(report["step"]), *map(_number, values))
    if constant := result.get("baseline"):  # services of the first versions do not answer it
        values = [result["baseline_loss"], *(constant.get(name) for name in names)]
        table.add_section()
        table.add_row("constant", "", *map(_number, values))
    return table


def _in_two_lines(name: str) -> str:
    """A long name of a metric, broken before its last word, so that no column is cut short."""
    first, line, last = name.rpartition("_")
    return f"{first}{line}\n{last}" if first and len(name) > LONG_NAME else name


def _finetune_notes(result: Json) -> Iterator[str]:
    layers = ", ".join(result["trained_layers"]) or "the head alone"
    share = result["trainable_parameters"] / result["total_parameters"]
    rate = result.get("learning_rate")  # services of the first versions do not answer it
    at_rate = f" at {rate:g}" if rate is not None and result.get("search") else ""
    yield (
        f"trained {layers}{at_rate}: {result['trainable_parameters']:,} of "
        f"{result['total_parameters']:,} parameters ({share:.1%}), "
        f"{result['seconds']['train']:.1f} s; best checkpoint {result['best_checkpoint']} (*)"
    )
    for preset, values in result["best"]["also"].items():
        constant = result.get("baseline_also", {}).get(preset, {})
        told = (f"{name} {_number(it)}{_beside(constant, name)}" for name, it in values.items())
        yield f"on {preset}: {', '.join(told)}"
    scores = result["ranking_at_start"]
    if scores is not None:
        yield f"ranking at the start: {', '.join(sorted(scores, key=lambda name: -scores[name]))}"


def _beside(constant: Json, name: str) -> str:
    """What a constant prediction reaches by a metric, in brackets."""
    return f" (a constant: {_number(constant[name])})" if name in constant else ""


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4f}"
