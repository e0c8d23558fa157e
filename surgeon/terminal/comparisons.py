"""Shows comparisons as tables that fit into 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from surgeon.terminal.remedies import warning_lines
from surgeon.terminal.tables import DASH, Json, narrow_table


def comparison_view(result: Json, title: str) -> Group:
    """A comparison: its arms, further presets, how well scores predict gains, and notes."""
    parts: list[RenderableType] = [arms_table(result, title), *_other_presets(result)]
    if result["single_layers"] and result["single_layers"]["methods"]:
        parts.append(methods_table(result["single_layers"]))
    parts += [Text(line) for line in _comparison_notes(result)]
    parts += warning_lines(result)
    return Group(*parts)


def arms_table(result: Json, title: str) -> Table:
    """One row for each arm, and what a constant prediction reaches."""
    table = narrow_table(title)
    table.add_column("arm")
    header = (result["primary_metric"].replace("_", " "), f"to {result['reference']}")
    for name in (*header, "", "rate", "trained", "train s", "MB"):
        table.add_column(name, justify="right", no_wrap=name not in header)
    for arm in result["arms"]:
        seconds, memory = _train_seconds(arm), arm["peak_memory_bytes"]
        table.add_row(
            arm["name"],
            _mean(arm["metric"]),
            _mean(arm["difference"], sign="+"),
            arm["verdict"] or "",
            _rates(arm),
            _count(arm["trainable_parameters"]),
            DASH if seconds is None else f"{seconds:.1f}",
            DASH if memory is None else f"{memory / 1e6:,.0f}",
        )
    if constant := result.get("baseline"):  # services of the first versions do not answer it
        table.add_section()
        table.add_row("constant", _plain(constant[result["primary_metric"]], 4))
    return table


def _train_seconds(arm: Json) -> float | None:
    """Seconds of training, with those of choosing the learning rate."""
    seconds: float | None = arm["seconds"].get("train")
    return None if seconds is None else seconds + float(arm["seconds"].get("rates", 0.0))


def _rates(arm: Json) -> str:
    """The learning rates of the runs, each once; several if the runs chose differently."""
    known = {run.get("learning_rate") for run in arm["runs"]} - {None}
    return "\n".join(f"{rate:g}" for rate in sorted(known)) or DASH


def _other_presets(result: Json) -> Iterator[Table]:
    """One table for each further preset that was measured."""
    also: list[Json] = [arm["also"] for arm in result["arms"]]
    measured = next((each for each in also if each), {})  # an arm without a result has no metrics
    for preset, metrics in measured.items():
        table = narrow_table(f"on {preset}")
        table.add_column("arm")
        for name in metrics:
            table.add_column(name, justify="right")
        for arm in result["arms"]:
            values: Json = arm["also"].get(preset, {})
            table.add_row(arm["name"], *(_mean(values.get(name)) for name in metrics))
        if constant := result.get("baseline_also", {}).get(preset):
            table.add_section()
            table.add_row("constant", *(_plain(constant[name], 4) for name in metrics))
        yield table


def methods_table(single_layers: Json) -> Table:
    """How well the scores of each method predicted the gains of layers trained alone."""
    table = narrow_table("scores beside what each layer alone gained")
    table.add_column("method")
    for name in ("Spearman", "95 % interval", "Kendall", "regret of top 1", "of top 2"):
        table.add_column(name, justify="right")
    for entry in single_layers["methods"]:
        ci = entry["spearman_ci"]
        table.add_row(
            entry["method"],
            _plain(entry["spearman"]),
            DASH if ci is None else f"{ci[0]:.2f} – {ci[1]:.2f}",
            _plain(entry["kendall"]),
            *(_plain(entry["regret"].get(k), 4) for k in ("1", "2")),
        )
    table.caption, table.caption_justify = _recommended(single_layers), "left"
    return table


def _recommended(single_layers: Json) -> str:
    if single_layers["recommended"]:
        return f"{single_layers['recommended']} foretold the gains clearly better than fisher"
    if not any(entry["minus_fisher_ci"] for entry in single_layers["methods"]):
        return "whether one is clearly better than fisher takes three seeds at least"
    return "none foretold the gains clearly better than fisher"


def _mean(value: Json | None, sign: str = "") -> str:
    """A mean, and half the width of its confidence interval."""
    if value is None:
        return DASH
    half = f" ±{(value['ci'][1] - value['ci'][0]) / 2:.4f}" if value["ci"] else ""
    return f"{value['mean']:{sign}.4f}{half}"


def _plain(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    if value is None:
        return DASH
    return f"{value / 1e6:.2f}M" if value >= 10_000 else f"{value:,}"


def _comparison_notes(result: Json) -> Iterator[str]:
    if result["noise"] is not None:
        yield f"one standard error of the validation rows: {result['noise']:.4f}"
    for failure in result["failures"]:
        yield f"no result: {failure['job']}: {(failure['error'] or {}).get('detail', 'cancelled')}"
