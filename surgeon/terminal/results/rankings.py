"""Shows rankings as tables that fit into 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from surgeon.terminal.tables import DASH, Json, narrow_table

WIDTH = 80
BAR_WIDTH = 12
NARROWEST_BAR = 6  # the lengths of shorter bars look alike


def ranking_view(result: Json, title: str) -> Group:
    """A ranking's scores, notes on them, and a comparison of methods if there are several."""
    parts: list[RenderableType] = [score_table(result, title), notes(result)]
    if result["methods"]:
        parts += [method_table(result), agreement_table(result["methods"])]
    return Group(*parts)


def score_table(result: Json, title: str) -> Table:
    """The ranked layers, best first, then the other groups of parameters."""
    layers = result["layers"]
    whole = result["granularity"] == "layer"
    start = "" if whole else _common_start([layer["name"] for layer in layers])
    header = ["", f"{result['granularity']} of {start}*" if start else "layer", *_columns(result)]
    rows = [
        [str(layer["rank"]), layer["name"].removeprefix(start)]
        + [_value(layer, name) for name in header[2:]]
        for layer in layers
    ]
    blank = [""] * (len(header) - 3)
    groups = [["", group["name"], _short(group["score"]), *blank] for group in result["groups"]]
    bar = min(BAR_WIDTH, _room([header, *rows, *groups]))
    table = narrow_table(title)
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
    if groups:
        table.add_section()
    for group in groups:
        table.add_row(*group)
    return table


def _room(rows: Sequence[Sequence[str]]) -> int:
    """The width that is left for the bar. Each column is followed by two blanks."""
    used = sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    return WIDTH - used - 2


def _common_start(names: Sequence[str]) -> str:
    """The common beginning of the names, such as `encoder.layer.`, which the header shows once."""
    paths = [name.split(".") for name in names]
    steps = enumerate(zip(*paths, strict=False))
    shared = next((place for place, step in steps if len(set(step)) > 1), 0)
    return "".join(f"{step}." for step in paths[0][:shared])


def _columns(result: Json) -> list[str]:
    """The columns that have values for this method, aggregate and number of heads."""
    layers = result["layers"]
    first = layers[0]
    columns = ["score"]
    columns += ["95 % interval"] if any(layer["ci"] for layer in layers) else []
    columns += ["unbiased"] if first["unbiased"] is not None else []
    columns += ["± heads"] if first["head_std"] is not None else []
    columns += ["share"]
    if first["p_top_k"] and result["granularity"] != "tensor":  # the names of tensors need the room
        columns.append(f"P(top {result['recommended_k']['k']})")
    return columns


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
    """What was computed and how far to trust it, one row for each note."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, text in _ranking_notes(result):
        grid.add_row(name, Text(text))
    return grid


def _ranking_notes(result: Json) -> Iterator[tuple[str, str]]:
    yield "computed", _computed(result)
    if result.get("minus"):  # a result of an older version has none
        yield (
            "minus",
            f"the part of the total on {result['minus']} labels, in standard errors",
        )
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
        # The beginning of the note repeats the name of the row.
        note = prior["note"].partition(": ")[2]
        yield "shuffled labels", f"τ {_tau(prior['kendall_tau'])}" + (f": {note}" if note else "")
        yield "shuffled tokens", f"τ {_tau(prior['shuffled_tokens']['kendall_tau'])}"


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
    if head.get("loss") is not None:  # a result of an older version has none
        return (
            f"{source}, fitted to {head['warmup_rows']:,} rows until it converged, to a loss of "
            f"{_short(head['loss'])} ({_short(head['baseline_loss'])} for a constant prediction)"
        )
    if not head["warmup_epochs"]:
        return f"{source}, not trained"
    epochs = f"{head['warmup_epochs']} epoch{'s' * (head['warmup_epochs'] > 1)}"
    return (
        f"{source}, warmed up {epochs} on {head['warmup_rows']:,} rows"
        f" to a loss of {_short(head['warmup_loss'])}"
    )


def _adaptive(report: Json) -> str:
    lines = [_look(each) for each in report["rounds"]]
    verdict = "certain" if report["certain"] else "not certain: rank more samples"
    rate = report.get("error_rate")  # a result of an older version has none
    if rate is not None and report["certain"]:
        verdict += f", which is wrong in at most {rate:.0%} of rankings"
    return "\n".join([*lines, verdict])


def _look(each: Json) -> str:
    start = f"{each['samples']} samples: the top {each['k']}"
    if each.get("p_value") is None:  # as in a result of an older version
        return f"{start} in {each['probability']:.0%} of resamples"
    return f"{start}, p {each['p_value']:.2g} (certain from {each['level']:.2g} down)"


def _tau(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def method_table(result: Json) -> Table:
    """The order of layers by each method, as the numbers of the layers."""
    numbers = {layer["name"]: str(layer["index"]) for layer in result["layers"]}
    table = narrow_table("")
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
    """Kendall's τ of each pair of methods. The columns are named by the methods' numbers."""
    names = [entry["method"] for entry in methods["methods"]]
    taus = methods["kendall_tau"]
    table = narrow_table("Kendall τ between methods")
    table.box = None  # lines would not leave room for ten methods
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place in range(1, len(names) + 1):
        table.add_column(str(place), justify="right", no_wrap=True)
    for place, one in enumerate(names, 1):
        table.add_row(str(place), one, *(_cell(taus[one][two]) for two in names))
    return table


def _cell(value: float | None) -> str:
    """A number in at most four characters, so that ten methods fit: -.60, .87, 1."""
    if value is None:
        return DASH
    sign = "-" if value < 0 else ""
    return sign + f"{abs(value):.2f}".removeprefix("0").replace("1.00", "1")
