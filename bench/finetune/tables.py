"""What the benchmark of fine-tuning prints: times, ratios, promises, and metrics over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from bench.tables import Target, plain_table

Json = dict[str, Any]
Measure = Callable[[Json], float]
BASE, LORA = "trainer all", "peft lora"
DELTA_SHARE = 0.20  # of a full checkpoint, for two of six layers


def first(run: Json) -> float:
    """Seconds of the first epoch, including the pass that fills the cache of frozen layers."""
    return float(run["epochs"][0])


def later(run: Json) -> float:
    """Seconds of an epoch after the first."""
    return statistics.median(run["epochs"][1:])


def whole(run: Json) -> float:
    """Seconds of all epochs."""
    return float(sum(run["epochs"]))


def values_of(runs: Sequence[Json], arm: str, measure: Measure) -> list[float]:
    """The measure of each run of the arm."""
    return [measure(run) for run in runs if run["arm"] == arm]


def speedup(runs: Sequence[Json], arm: str, base: str, measure: Measure) -> float | None:
    """How many times faster than ``base`` the arm is, by the medians of the rounds."""
    mine, theirs = values_of(runs, arm, measure), values_of(runs, base, measure)
    return statistics.median(theirs) / statistics.median(mine) if mine and theirs else None


def table_of(title: str, runs: Sequence[Json]) -> Table:
    """One row for each arm, with medians over the rounds."""
    columns = [
        *("arm", "epoch 1 s", "later s", "spread", "all s", "rows/s"),
        *("later/Trainer", "all/Trainer", "all/LoRA", "peak MiB", "kept MB", "trained", "metric"),
    ]
    table = plain_table(title, columns)
    for arm in dict.fromkeys(run["arm"] for run in runs):
        table.add_row(arm, *_cells(runs, arm))
    return table


def _cells(runs: Sequence[Json], arm: str) -> list[str]:
    own = [run for run in runs if run["arm"] == arm]
    one, more, every = (statistics.median(map(m, own)) for m in (first, later, whole))
    spent = [whole(run) for run in own]
    metrics = [run["metric"] for run in own if run["metric"] is not None]
    ratios = [
        speedup(runs, arm, base, measure)
        for base, measure in ((BASE, later), (BASE, whole), (LORA, whole))
    ]
    return [
        *(f"{one:.2f}", f"{more:.2f}", f"{(max(spent) - min(spent)) / every:.0%}", f"{every:.2f}"),
        f"{len(own[0]['epochs']) * own[0]['rows'] / every:.0f}",
        *["" if ratio is None else f"{ratio:.2f}x" for ratio in ratios],
        f"{statistics.median(run['peak_bytes'] for run in own) / 2**20:.0f}",
        f"{own[0]['checkpoint_bytes'] / 1e6:.1f}",
        f"{own[0]['trainable']:,}",
        f"{statistics.mean(metrics):.4f}" if metrics else "",
    ]


# Ours, the peer, what is compared, and how many times as fast ours is to be.
PROMISES: tuple[tuple[str, str, str, float], ...] = (
    ("ours all", BASE, "all", 1.0),
    ("ours top-2 off", "trainer top-2", "all", 1.0),
    ("ours last-2 off", "trainer last-2", "all", 1.0),
    ("ours last-2", BASE, "later", 3.5),
    ("ours last-2", BASE, "all", 2.9),
    ("ours last-2", LORA, "all", 1.9),
    ("ours last-1", BASE, "all", 4.8),
)


def targets_of(case: str, runs: Sequence[Json]) -> list[Target]:
    """The project's targets for a six-layer encoder, as far as their arms were run."""
    measures = {"all": whole, "later": later}
    found = []
    for arm, base, name, target in PROMISES:
        measure = measures[name]
        median = speedup(runs, arm, base, measure)
        if median is not None:
            fastest = min(values_of(runs, base, measure)) / min(values_of(runs, arm, measure))
            label = f"{base} / {arm}, {name} epochs"
            found.append(Target(case, label, median, fastest, target, at_least=True))
    sizes = {run["arm"]: run["checkpoint_bytes"] for run in runs}
    if {"ours last-2", BASE} <= sizes.keys():
        share = sizes["ours last-2"] / sizes[BASE]
        label = "bytes of two layers' delta / Trainer's checkpoint"
        found.append(Target(case, label, share, share, DELTA_SHARE))
    return found


SAME = tuple((f"ours {what}", f"trainer {what}") for what in ("all", "top-2", "last-2", "last-1"))


def seeds_table(title: str, runs: Sequence[Json]) -> Table:
    """Ours against Trainer with the same layers: is the difference more than the seeds make?

    ``within``: the mean difference is at most twice its own standard error.
    """
    columns = ["arm", "seeds", "ours", "Trainer", "difference", "its std. error", "within"]
    table = plain_table(f"{title}: metrics over seeds", columns)
    for arm, base in SAME:
        mine, theirs = _by_seed(runs, arm), _by_seed(runs, base)
        pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
        if len(pairs) > 1:
            gaps = [a - b for a, b in pairs]
            error = statistics.stdev(gaps) / len(gaps) ** 0.5
            gap = statistics.mean(gaps)
            means = [f"{statistics.mean(values):.4f}" for values in zip(*pairs, strict=True)]
            within = "yes" if abs(gap) <= 2 * error else "no"
            table.add_row(arm, str(len(pairs)), *means, f"{gap:+.4f}", f"{error:.4f}", within)
    return table


def _by_seed(runs: Sequence[Json], arm: str) -> dict[int, float]:
    return {
        run["seed"]: run["metric"]
        for run in runs
        if run["arm"] == arm and run["metric"] is not None
    }
