"""Does a search find layers that are worth its cost? Beside all layers, the last two, and LoRA.

    python -m bench.search [--tasks glue/cola …] [--seeds 0] [--rows 600] [--threads 2]
                           [--results FILE] [--report]

For each task: a search with its default budget; then all layers, the last two, the two that the
Fisher score ranks first, and LoRA, each at the best of the same learning rates. A rate is chosen by
whole runs at every rate, judged on the rows that the search judges by. What was chosen is trained
on all train rows and measured on the validation rows, which nothing before has read. ``regret`` is
the best of the other four minus the search, in points of the metric; the search is ``good`` if it
is at most one standard error of the validation metric.

``cost`` is what the search took of the time that training each layer alone once would take. Every
finished cell is one line of JSON in ``--results``, so that a benchmark that is stopped goes on
where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.study.cells import (
    ALL,
    LORA,
    SEARCH,
    Place,
    Setting,
    arm_of,
    as_json,
    best,
    search,
    train,
)
from bench.study.encoders import open_encoder
from bench.study.results import Json, Key, Results
from bench.study.tasks import TASKS, mirrors_named
from bench.tables import plain_table
from surgery.io.sources import Sources
from surgery.schemas.jobs.search import SearchOptions

KEPT_ASIDE = (
    "super_glue/wic",
    "glue/cola",
    "glue/stsb",
    "glue/mrpc",
)  # not looked at in its making
RATES = tuple(SearchOptions().learning_rates)
SMALL = Setting(
    rows=600,
    tokens=12_000,
    validation=400,
    epochs=3,
    max_length=64,
    layer_rates=RATES,
    all_rates=RATES,
    lora_rates=RATES,
)


@dataclass(frozen=True)
class Line:
    """A task's result: validation metrics in points, and what the search cost."""

    task: str
    seed: int
    chosen: str
    value: float
    others: Mapping[str, float]
    noise: float
    share: float

    @property
    def regret(self) -> float:
        """The best of the others minus the search."""
        return max(self.others.values()) - self.value

    @property
    def good(self) -> bool:
        """Whether the search is at least the best of the others minus one standard error."""
        return self.regret <= self.noise


def line(results: Results, task: str, seed: int, setting: Setting, place: Place) -> Line:
    """Run what is missing of a task, and its line."""

    def cell(arm: str, run: Callable[[], Json]) -> Json:
        return _cell(results, (task, seed, arm), run)

    found = cell(SEARCH, lambda: search(task, seed, setting, place))
    arms = others(found["fisher"])
    cells = {
        name: cell(arm, lambda arm=arm: train(task, seed, arm, setting, place))
        for name, arm in arms.items()
    }
    values = {name: 100 * (each["value"] or 0.0) for name, each in cells.items()}
    top = max(values, key=lambda name: values[name])
    return Line(
        task=task,
        seed=seed,
        chosen=f"{arm_of(found['layers'])} at {found['learning_rate']:g}",
        value=100 * (found["value"] or 0.0),
        others=values,
        noise=100 * (cells[top]["noise"] or 0.0),
        share=found["search"]["share"],
    )


def _cell(results: Results, key: Key, run: Callable[[], Json]) -> Json:
    if key not in results.lines:
        began = time.perf_counter()
        results.add(key, run())
        spent = time.perf_counter() - began
        print(time.strftime("%H:%M:%S"), *key, f"{spent:.1f} s", flush=True)
    return results.lines[key]


def others(fisher: Sequence[float]) -> dict[str, str]:
    """What a search is compared with, by name: the arm that it trains."""
    depth = len(fisher)
    return {
        "all": ALL,
        "last-2": arm_of((depth - 2, depth - 1)),
        "Fisher's 2": arm_of(best(fisher, 2)),
        "LoRA": LORA,
    }


def table(lines: Sequence[Line]) -> Table:
    """One row for each task and seed."""
    names = list(lines[0].others)
    columns = ["task", "seed", "chosen", "search", *names, "regret", "± noise", "cost", ""]
    made = plain_table("Validation metric, in points", columns, left=3)
    for one in lines:
        made.add_row(
            *(one.task, str(one.seed), one.chosen, f"{one.value:.1f}"),
            *(f"{one.others[name]:.1f}" for name in names),
            *(f"{one.regret:.1f}", f"{one.noise:.1f}", f"{one.share:.2f}"),
            "good" if one.good else "worse",
        )
    return made


def total(lines: Sequence[Line]) -> str:
    """How often the search was good, and at which cost."""
    good, count = sum(one.good for one in lines), len(lines)
    share = sum(one.share for one in lines) / count
    regret = sum(one.regret for one in lines) / count
    return (
        f"The search is at least the best of the others minus one standard error on {good} of "
        f"{count} ({good / count:.0%}; aim: 80 %), mean regret {regret:.1f} points, at {share:.2f} "
        "of the cost of training each layer alone once (aim: below 0.40)."
    )


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(KEPT_ASIDE))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=SMALL.rows, help="train rows at most")
    parser.add_argument("--tokens", type=int, default=SMALL.tokens, help="in them at most")
    parser.add_argument("--validation", type=int, default=SMALL.validation, help="rows at most")
    parser.add_argument("--epochs", type=int, default=SMALL.epochs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("bench/results/search.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("bench/results/cache"))
    parser.add_argument("--report", action="store_true", help="run nothing, print what there is")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, and print the table."""
    given = arguments()
    torch.set_num_threads(given.threads)
    named = {name: getattr(given, name) for name in ("rows", "tokens", "validation", "epochs")}
    setting = replace(SMALL, **named)
    given.cache.mkdir(parents=True, exist_ok=True)
    sources = Sources(mirrors_named(), cache=given.cache)
    results = Results(given.results, as_json(setting))
    place = Place(open_encoder(setting.encoder, given.cache), sources, torch.device("cpu"))
    pairs = list(product(given.seeds, given.tasks))
    if given.report:
        pairs = [(seed, task) for seed, task in pairs if is_finished(results, task, seed)]
    lines = [line(results, task, seed, setting, place) for seed, task in pairs]
    if not lines:
        print("no task is finished yet")
        return
    console = Console(width=140)
    console.print(table(lines))
    console.print(total(lines))


def is_finished(results: Results, task: str, seed: int) -> bool:
    """Whether every cell of a task and seed is there."""
    found = results.lines.get((task, seed, SEARCH))
    arms = others(found["fisher"]).values() if found else ()
    return bool(arms) and all((task, seed, arm) in results.lines for arm in arms)


if __name__ == "__main__":
    main()
