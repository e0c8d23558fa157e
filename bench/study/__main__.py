"""Which layers are worth training, and does a score tell? Real tasks, two encoders, every policy.

    python -m bench.study [--encoder minilm|mpnet] [--tasks glue/sst2 …] [--seeds 0 1 2]
                          [--device cpu|cuda] [--precision fp32|bf16] [--workers 2] [--threads 1]
                          [--results FILE] [--report]

For each task and seed: the ranking by every scoring method, then a fine-tune of each layer alone,
of the pairs of layers that each policy chooses, of the head alone, of all layers, of all layers by
each schedule, of LoRA, and of what a search chooses. Each trains at its own best of three learning
rates, which is chosen with a task's first seed. Every finished cell is one line of JSON in
``--results``, so a study that is stopped goes on where it was. ``--workers`` processes take pairs
of task and seed side by side; all tasks get the first seed before any gets the second.

``--report`` runs nothing: it writes docs/science/study.md and docs/images/study-*.svg from the
finished cells. Presets are looked up in the folders of SURGEON_MIRROR_DIR, then on the Hub.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.study.cells import Place, Setting, as_json
from bench.study.encoders import ENCODERS, open_encoder
from bench.study.report import write_report
from bench.study.results import Results
from bench.study.run import run_task
from bench.study.statistics import runs_of
from bench.study.tasks import TASKS, mirrors_named
from surgery.io.sources import Sources

CELLS = Path("docs/data/study.jsonl")
PILOT = Path("docs/data/study-one-rate.jsonl")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    of = Setting()
    parser.add_argument("--encoder", default=of.encoder, choices=ENCODERS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default=of.precision, choices=["fp32", "bf16"])
    parser.add_argument("--rows", type=int, default=of.rows, help="train rows at most")
    parser.add_argument("--tokens", type=int, default=of.tokens, help="in the train rows at most")
    parser.add_argument("--validation", type=int, default=of.validation, help="rows at most")
    parser.add_argument("--epochs", type=int, default=of.epochs)
    parser.add_argument("--batch-size", type=int, default=of.batch_size)
    parser.add_argument("--max-length", type=int, default=of.max_length)
    parser.add_argument("--samples", type=int, default=of.samples, help="rows that are scored")
    for kind in ("layer", "all", "lora", "head"):
        name = f"{kind}_rates"
        parser.add_argument(
            f"--{kind}-rates", type=float, nargs="+", default=getattr(of, name), metavar="RATE"
        )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=1, help="processes side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--results", type=Path, default=CELLS)
    parser.add_argument("--cache", type=Path, default=Path("bench/results/cache"))
    parser.add_argument(
        "--report", action="store_true", help="write docs/science/study.md, run nothing"
    )
    return parser.parse_args()


def _setting(given: argparse.Namespace) -> Setting:
    values: dict[str, Any] = {each.name: getattr(given, each.name) for each in fields(Setting)}
    return Setting(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _place(given: argparse.Namespace) -> Place:
    given.cache.mkdir(parents=True, exist_ok=True)
    sources = Sources(mirrors_named(), cache=given.cache)
    model = open_encoder(given.encoder, given.cache)
    return Place(model, sources, torch.device(given.device))


def _report(given: argparse.Namespace) -> None:
    chapters = []
    for encoder in ENCODERS:
        given.encoder = encoder
        chapters.append(Results(given.results, as_json(_setting(given))))
    pilot = runs_of(Results.every(PILOT))
    write_report(chapters, given.tasks, given.seeds, pilot)


def main() -> None:
    """Run what is missing, or report what there is."""
    given = arguments()
    if given.report:
        _report(given)
        return
    # Opened here: it unpacks the encoder once, before several processes look for it.
    setting, place = _setting(given), _place(given)
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
    with ProcessPoolExecutor(given.workers, mp_context=spawn) as pool:
        waiting = [
            pool.submit(run_task, task, seed, setting, place, given.results, given.threads)
            for seed, task in product(given.seeds, given.tasks)
        ]
        for each in waiting:
            each.result()


if __name__ == "__main__":
    main()
