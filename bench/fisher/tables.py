"""What the benchmark prints: at most 120 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bench.fisher.cases import Case
from bench.fisher.measure import Measured
from bench.fisher.methods import Gives
from bench.tables import Target, plain_table

SHORT, LONG = 128, 512  # tokens: where the targets change


def _result(measured: Measured) -> str:
    error = "" if measured.error is None else f" {measured.error:.0e}"
    return measured.verdict + error


def _mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f}"


def case_table(case: Case, found: Sequence[Measured]) -> Table:
    """One row for each method."""
    title = f"{case.name}: {case.rows} rows of {case.tokens:.0f} tokens"
    columns = [
        *("method", "gives", "result", "median s", "min s", "spread", "rounds"),
        *("x limit", "peak MiB"),
    ]
    table = plain_table(title, columns, left=3)
    limit = next((m.median for m in found if m.method == "limit" and m.seconds), None)
    for measured in found:
        cells = [measured.method, str(measured.gives), _result(measured)]
        if measured.seconds:
            mark = "~" * measured.scaled
            cells += [
                f"{mark}{measured.median:.3f}",
                f"{mark}{measured.best:.3f}",
                f"{measured.spread:.0%}",
                str(len(measured.seconds)),
                f"{mark}{measured.median / limit:.2f}" if limit else "",
            ]
        else:
            cells += [""] * 5
        table.add_row(*cells, _mebibytes(measured.peak_bytes))
    return table


def architecture_table(found: dict[str, list[Measured]]) -> Table:
    """Whether each method is right, wrong (and by how much) or crashes on each architecture."""
    columns = ["method", "gives", *found]
    table = plain_table("Tiny random encoders: is the result right?", columns, left=len(columns))
    for row in zip(*found.values(), strict=True):
        table.add_row(row[0].method, str(row[0].gives), *(_result(m) for m in row))
    return table


def rows_table(name: str, grown: dict[int, int | None]) -> Table:
    """Peak memory by number of rows."""
    table = plain_table(f"Peak memory of {name}", ["rows", "peak MiB"], left=0)
    for rows, peak in grown.items():
        table.add_row(str(rows), _mebibytes(peak))
    return table


def targets_of(case: Case, found: Sequence[Measured]) -> list[Target]:
    """The project's targets for one case."""
    by_name = {m.method: m for m in found if m.seconds}
    trace_target = 1.10 if case.tokens <= SHORT else 1.30
    diagonal_target = 1.15 if case.tokens >= SHORT else 1.40
    libraries = [
        (m.method, "trace" if m.gives == Gives.TRACE else "frobenius", 1.5, True)
        for m in (
            _fastest_library(found, Gives.TRACE),
            _fastest_library(found, Gives.DIAGONAL),
            next((m for m in found if m.library and not m.documented and m.right), None),
        )
        if m
    ]
    pairs = [
        ("trace", "limit", trace_target, False),
        ("frobenius", "plain", diagonal_target, False),
        *libraries,
        ("authors", "trace", 20, True),
        ("authors", "frobenius", 20, True),
    ]
    return [
        Target(
            case.name,
            f"{method} / {to}",
            by_name[method].median / by_name[to].median,
            by_name[method].best / by_name[to].best,
            target,
            at_least,
        )
        for method, to, target, at_least in pairs
        if method in by_name and to in by_name
    ]


def _fastest_library(found: Sequence[Measured], gives: Gives) -> Measured | None:
    """The fastest library among those used as documented whose result is right."""
    exact = [
        m
        for m in found
        if m.library and m.documented and m.right and m.seconds and m.gives == gives
    ]
    return min(exact, key=lambda m: m.median, default=None)
