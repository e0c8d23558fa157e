"""Rankings and comparisons as tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
WIDTH = 80
BAR_WIDTH = 12
NARROWEST_BAR = 6  # below that lengths cannot be told apart
DASH = "–"


def ranking_view(result: Json, title: str) -> Group:
    """The scores, what is known about them, and the methods beside it."""
    parts: list[RenderableType] = [score_table(result, title), notes(result)]
    if result["methods"]:
        parts += [method_table(result), agreement_table(result["methods"])]
    return Group(*parts)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )


def score_table(result: Json, title: str) -> Table:
    """What is ranked, best first, then the groups beside it."""
    layers = result["layers"]
    whole = result["granularity"] == "layer"
    start = "" if whole else _common_start([layer["name"] for layer in layers])
    header = ["", f"{result['granularity']} of {start}*" if start else "layer", *_columns(result)]
    rows = [
        [str(layer["rank"]), layer["name"].removeprefix(start)]
        + [_value(layer, name) for name in header[2:]]
        for layer in layers
    ]
    bar = min(BAR_WIDTH, _room([header, *rows]))
    table = _table(title)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place == 1 else "right", no_wrap=True)
    if bar >= NARROWEST_BAR:
        table.add_column("", no_wrap=True)
        top = max(layer["score"] for layer in layers)
        rows = [
            [*row, _bar(layer["score"], top, bar)] for row, layer in zip(rows, layers, strict=True)
        ]
    for row in rows:
        table.add_row(*row)
    if result["groups"]:
        table.add_section()
    for group in result["groups"]:
        table.add_row("", group["name"], _short(group["score"]))
    return table


def _room(rows: Sequence[Sequence[str]]) -> int:
    """What a line leaves for the bar: two blanks stand behind a column, one at each end."""
    used = sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    return WIDTH - used - 2


def _common_start(names: Sequence[str]) -> str:
    """`encoder.layer.`, told once: the names of tensors are long."""
    paths = [name.split(".") for name in names]
    steps = enumerate(zip(*paths, strict=False))
    shared = next((place for place, step in steps if len(set(step)) > 1), 0)
    return "".join(f"{step}." for step in paths[0][:shared])


def _columns(result: Json) -> list[str]:
    """Only those that this method, aggregate and number of heads fill."""
    layers = result["layers"]
    first = layers[0]
    found = ["score"]
    found += ["95 % interval"] if any(layer["ci"] for layer in layers) else []
    found += ["unbiased"] if first["unbiased"] is not None else []
    found += ["± heads"] if first["head_std"] is not None else []
    found += ["share"]
    if first["p_top_k"] and result["granularity"] != "tensor":  # whose names need the room
        found.append(f"P(top {result['recommended_k']['k']})")
    return found


def _value(layer: Json, column: str) -> str:
    if column == "95 % interval":
        return DASH if layer["ci"] is None else f"{layer['ci'][0]:.3g} – {layer['ci'][1]:.3g}"
    if column == "share":
        return f"{layer['share']:.1%}"
    if column.startswith("P(top "):
        return f"{layer['p_top_k'][column[6:-1]]:.2f}"
    return _short(layer[{"score": "score", "unbiased": "unbiased", "± heads": "head_std"}[column]])


def _short(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"


def _bar(score: float, top: float, width: int) -> str:
    return "█" * max(1, round(width * score / top)) if score > 0 else ""


def notes(result: Json) -> Table:
    """What was computed and how far it can be trusted, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, text in _ranking_notes(result):
        grid.add_row(name, Text(text), style="yellow" if name == "warning" else None)
    return grid


def _ranking_notes(result: Json) -> Iterator[tuple[str, str]]:
    yield "computed", _computed(result)
    recommended = result["recommended_k"]
    yield "recommended k", f"{recommended['k']}: {recommended['reason']}"
    stability = _stability(result["stability"])
    if stability:
        yield "stability", stability
    if result["head"]:
        yield "head", _head(result["head"])
    if result["head_spread"]:
        spread = result["head_spread"]
        mean, least = (_tau(spread[f"kendall_tau_{which}"]) for which in ("mean", "min"))
        yield f"{spread['heads']} heads", f"τ between two of them: {mean} mean, {least} lowest"
    if result["adaptive"]:
        yield "adaptive", _adaptive(result["adaptive"])
    if result["model_prior"]:
        prior = result["model_prior"]
        # Without what the name of the line says already.
        note = prior["note"].partition(": ")[2]
        yield "shuffled labels", f"τ {_tau(prior['kendall_tau'])}" + (f": {note}" if note else "")
        yield "shuffled tokens", f"τ {_tau(prior['shuffled_tokens']['kendall_tau'])}"
    for warning in result["warnings"]:
        yield "warning", warning


def _computed(result: Json) -> str:
    parts = ["fisher" if result["method"] == "all" else result["method"]]
    parts += [result["aggregate"]] if result["aggregate"] else []
    parts += [f"{result['fisher']} labels"] if result["fisher"] else []
    parts += [f"{result['samples']} samples" if result["samples"] else "no row read"]
    parts += [result["path"].replace("_", " ")] if result["path"] else []
    parts += [result["precision"]] if result["precision"] != "fp32" else []
    parts += [f"{result['processes']} processes"] if result["processes"] > 1 else []
    return ", ".join(parts)


def _stability(stability: Json) -> str:
    parts = []
    if stability["split_half_kendall_tau"] is not None:
        parts.append(f"τ between two halves {_tau(stability['split_half_kendall_tau'])}")
    if stability["rank_confidence"] is not None:
        parts.append(f"this order in {stability['rank_confidence']:.0%} of the resamples")
    if stability["ambiguous_k"]:
        parts.append(f"uncertain at k = {', '.join(map(str, stability['ambiguous_k']))}")
    return "; ".join(parts)


def _head(head: Json) -> str:
    source = "new" if head["source"] == "new" else "the checkpoint's own"
    if not head["warmup_epochs"]:
        return f"{source}, not warmed up"
    epochs = f"{head['warmup_epochs']} epoch{'s' * (head['warmup_epochs'] > 1)}"
    return (
        f"{source}, warmed up {epochs} on {head['warmup_rows']:,} rows"
        f" to a loss of {_short(head['warmup_loss'])}"
    )


def _adaptive(report: Json) -> str:
    lines = [
        f"{each['samples']} samples: the top {each['k']} in {each['probability']:.0%} of resamples"
        for each in report["rounds"]
    ]
    return "\n".join([*lines, "certain" if report["certain"] else "not certain: rank more samples"])


def _tau(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def method_table(result: Json) -> Table:
    """What each method prefers, as the blocks' numbers."""
    numbers = {layer["name"]: str(layer["index"]) for layer in result["layers"]}
    table = _table("")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("layers, best first")
    table.add_column("τ of halves", justify="right", no_wrap=True)
    for place, entry in enumerate(result["methods"]["methods"], 1):
        order = " ".join(numbers[name] for name in entry["order"])
        tau = _tau(entry["stability"]["split_half_kendall_tau"])
        table.add_row(str(place), entry["method"], order, tau)
    return table


def agreement_table(methods: Json) -> Table:
    """Kendall's τ of each pair of methods, under their numbers."""
    names = [entry["method"] for entry in methods["methods"]]
    taus = methods["kendall_tau"]
    table = Table(
        title="Kendall τ between methods", title_justify="left", box=None, pad_edge=False,
        padding=(0, 1, 0, 0),  # the lines of a box would not leave room for ten methods
    )  # fmt: skip
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place in range(1, len(names) + 1):
        table.add_column(str(place), justify="right", no_wrap=True)
    for place, one in enumerate(names, 1):
        table.add_row(str(place), one, *(_cell(taus[one][two]) for two in names))
    return table


def _cell(value: float | None) -> str:
    """Four characters, so that ten methods fit: -.60, .87, 1."""
    if value is None:
        return DASH
    sign = "-" if value < 0 else ""
    return sign + f"{abs(value):.2f}".removeprefix("0").replace("1.00", "1")


def comparison_view(result: Json, title: str) -> Group:
    """The arms, what judges their differences, and the scores beside single layers."""
    parts: list[RenderableType] = [arms_table(result, title), *_other_presets(result)]
    if result["single_layers"] and result["single_layers"]["methods"]:
        parts.append(methods_table(result["single_layers"]))
    parts += [Text(line) for line in _comparison_notes(result)]
    return Group(*parts)


def arms_table(result: Json, title: str) -> Table:
    """A line an arm."""
    table = _table(title)
    table.add_column("arm")
    header = (result["primary_metric"], f"to {result['reference']}")
    for name in (*header, "", "trained", "train s", "MB"):
        table.add_column(name, justify="right", no_wrap=name not in header)
    for arm in result["arms"]:
        memory = arm["peak_memory_bytes"]
        seconds = arm["seconds"].get("train")
        table.add_row(
            arm["name"], _mean(arm["metric"]), _mean(arm["difference"], sign="+"),
            arm["verdict"] or "", _count(arm["trainable_parameters"]),
            DASH if seconds is None else f"{seconds:.1f}",
            DASH if memory is None else f"{memory / 1e6:,.0f}",
        )  # fmt: skip
    return table


def _other_presets(result: Json) -> Iterator[Table]:
    """A table for each preset that was measured beside the dataset."""
    also: list[Json] = [arm["also"] for arm in result["arms"]]
    measured = next((each for each in also if each), {})  # an arm without a result has none
    for preset, metrics in measured.items():
        table = _table(f"on {preset}")
        table.add_column("arm")
        for name in metrics:
            table.add_column(name, justify="right")
        for arm in result["arms"]:
            own: Json = arm["also"].get(preset, {})
            table.add_row(arm["name"], *(_mean(own.get(name)) for name in metrics))
        yield table


def methods_table(found: Json) -> Table:
    """How well each score foretold the gains of single layers."""
    table = _table("scores beside what each layer alone gained")
    table.add_column("method")
    for name in ("Spearman", "95 % interval", "Kendall", "regret of top 1", "of top 2"):
        table.add_column(name, justify="right")
    for entry in found["methods"]:
        ci = entry["spearman_ci"]
        table.add_row(
            entry["method"], _plain(entry["spearman"]),
            DASH if ci is None else f"{ci[0]:.2f} – {ci[1]:.2f}", _plain(entry["kendall"]),
            *(_plain(entry["regret"].get(k), 4) for k in ("1", "2")),
        )  # fmt: skip
    table.caption, table.caption_justify = _recommended(found), "left"
    return table


def _recommended(found: Json) -> str:
    if found["recommended"]:
        return f"{found['recommended']} foretold the gains clearly better than fisher"
    if not any(entry["minus_fisher_ci"] for entry in found["methods"]):
        return "whether one is clearly better than fisher takes three seeds at least"
    return "none foretold the gains clearly better than fisher"


def _mean(value: Json | None, sign: str = "") -> str:
    """Mean, and half the width of its interval."""
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
    for warning in result["warnings"]:
        yield f"warning: {warning}"
