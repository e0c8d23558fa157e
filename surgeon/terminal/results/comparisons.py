"""Shows comparisons as tables that fit into 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from surgeon.terminal.tables import DASH, Json, narrow_table
from surgeon.terminal.wording import OF_JOBS


def comparison_view(result: Json, title: str) -> Group:
    """A comparison: its arms, their runs, other presets, how well scores foretold, the decision."""
    parts: list[RenderableType] = [arms_table(result, title), checkpoints_table(result)]
    parts += _other_presets(result)
    if result["single_layers"] and result["single_layers"]["methods"]:
        parts.append(methods_table(result["single_layers"]))
    parts += [Text(line) for line in _comparison_notes(result)]
    parts += [Text(line, style="bold") for line in _decided(result)]
    return Group(*parts)


def arms_table(result: Json, title: str) -> Table:
    """One row for each arm: what it trains, reached and cost; and what a constant reaches."""
    table = narrow_table(title)
    table.add_column("arm", overflow="fold")
    table.add_column("layers")
    header = (result["primary_metric"].replace("_", " "), f"to {result['reference']}")
    for name in (*header, "", "rate", "trained", "s"):
        table.add_column(name, justify="right", no_wrap=name not in header)
    for arm in result["arms"]:
        seconds = _train_seconds(arm)
        table.add_row(
            arm["name"],
            _layers(arm),
            _mean(arm["metric"]),
            _mean(arm["difference"], sign="+"),
            arm["verdict"] or "",
            _rates(arm),
            _trained(arm),
            DASH if seconds is None else f"{seconds:.1f}",
        )
    if constant := result.get("baseline"):  # services of the first versions do not answer it
        table.add_section()
        table.add_row("constant", "", _plain(constant[result["primary_metric"]], 4))
    return table


def checkpoints_table(result: Json) -> Table:
    """One row for each arm: its best run, and what runs and checkpoints take."""
    table = narrow_table("")
    table.add_column("arm", overflow="fold")
    for name in ("memory MB", "checkpoint MB", "best seed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("its checkpoint", no_wrap=True)
    for arm in result["arms"]:
        if arm.get("same_as"):
            table.add_row(arm["name"], "", "", "", f"as {arm['same_as']}")
            continue
        run = best_run(arm)
        sizes = (arm["peak_memory_bytes"], arm["checkpoint_bytes"])
        table.add_row(
            arm["name"],
            *(DASH if size is None else f"{size / 1e6:,.0f}" for size in sizes),
            DASH if run is None else str(run["seed"]),
            (run and run["checkpoint"]) or DASH,
        )
    return table


def best_run(arm: Json) -> Json | None:
    """The run of an arm with the highest metric; of equal ones the first."""
    known = [run for run in arm["runs"] if run["metric"] is not None]
    return max(known, key=lambda run: float(run["metric"]), default=None)


def _layers(arm: Json) -> str:
    """What an arm trains beside the head: numbers of layers, or how many parts of them."""
    if arm["trained_layers"] is None:
        return DASH
    if arm.get("adapter"):
        return str(arm["adapter"])
    ends = [name.rpartition(".")[2] for name in arm["trained_layers"]]
    if all(end.isdigit() for end in ends):
        return _ranges([int(end) for end in ends]) or "head"
    return f"{len(ends)} parts"


def _ranges(numbers: list[int]) -> str:
    """Numbers with their runs shortened: `0-2 5`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def _trained(arm: Json) -> str:
    """The share of the parameters that trained; how many they are in services of early versions."""
    count, total = arm["trainable_parameters"], arm.get("total_parameters")
    if count is None or not total:
        return _count(count)
    share = count / total
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


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
        detail = OF_JOBS.told((failure["error"] or {}).get("detail", "cancelled"))
        yield f"no result: {failure['job']}: {detail}"


def _decided(result: Json) -> Iterator[str]:
    decision = result.get("decision")  # services of early versions decide nothing
    if decision is not None:
        yield f"\n{decision['summary']}"
