"""Shows searches as a table that fits into 80 columns, with the choice below it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from surgeon.terminal.tables import DASH, Json, narrow_table


def search_view(result: Json, title: str) -> Group:
    """A search: its candidates, notes on them, and what was chosen."""
    lines = [*_notes(result), conclusion(result)]
    return Group(candidates_table(result, title), *map(Text, lines))


def candidates_table(result: Json, title: str) -> Table:
    """One row for each candidate that was tried, best first, and one for a constant prediction."""
    table = narrow_table(title)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("layers")
    confidence = f"{100 * result['confidence']:g} % interval"
    metric = result["primary_metric"].replace("_", " ")  # so that a long name is folded
    for name in ("rate", metric, confidence, "P(best)", "steps", "seconds"):
        table.add_column(name, justify="right", no_wrap=name != metric)
    for arm in result["arms"]:
        if arm["status"] == "not_tried":
            continue
        expected = arm["expected"]
        table.add_row(
            str(arm["rank"]),
            arm["name"],
            f"{arm['learning_rate']:g}",
            DASH if expected is None else f"{expected['mean']:.4f}",
            DASH if expected is None else f"{expected['low']:.4f} – {expected['high']:.4f}",
            f"{arm['p_best']:.2f}",
            f"{sum(trial['steps'] for trial in arm['trials']):,}",
            f"{sum(trial['seconds'] for trial in arm['trials']):.1f}",
        )
    if constant := result.get("baseline"):  # services of the first versions do not answer it
        value = constant[result["primary_metric"]]
        table.add_section()
        table.add_row("", "constant", "", DASH if value is None else f"{value:.4f}")
    return table


def _notes(result: Json) -> Iterator[str]:
    untried = sum(arm["status"] == "not_tried" for arm in result["arms"])
    if untried:
        yield (
            f"not tried, as the scores put them too far down for the budget: {untried} of "
            f"{len(result['arms'])} candidates"
        )
    yield (
        f"judged by {result['held_out_rows']:,} rows of train, trained on the other "
        f"{result['train_rows']:,}; metrics are those expected after the whole training"
    )
    for other, gain in (
        ("all layers", result["gain_over_all"]),
        ("Fisher's two best layers", result["gain_over_fisher"]),
    ):
        if gain is not None:
            span = f"{gain['low']:+.4f} to {gain['high']:+.4f}"
            yield f"expected gain over {other}: {gain['mean']:+.4f} ({span})"


def conclusion(result: Json) -> str:
    """What was chosen, its rate, what that cost and whether it is certain."""
    cost = result["cost"]
    certain = (
        f"better than every other candidate at {100 * result['confidence']:g} %"
        if result["winner"]
        else "not certain: others may be as good"
    )
    return (
        f"train {', '.join(result['layers'])} at {result['learning_rate']:g} ({certain}); it cost "
        f"{cost['seconds']:.1f} s, {cost['share']:.0%} of training each layer alone"
    )
