"""What the tangent score costs beside the Fisher trace, on the same batches of MiniLM.

    python -m bench.fisher.tangent [--rows 128 512] [--rounds 3] [--json PATH]

Both score the six layers, with the check of the path that every job makes. Times are the medians
of rounds in which the two take turns, after one to warm up; memory is the peak growth of a fresh
process above the loaded model. Sentences as in ``bench.fisher``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from bench.fisher.cases import Case, Setting
from surgery.gradients.engine import fisher_scores
from surgery.gradients.passes import Objective
from surgery.models.blocks import find_blocks, units_of
from surgery.ranking.tangent import tangent_scores
from surgery.schemas.enums import Problem


def trace(case: Case) -> None:
    """The Fisher trace of every layer."""
    units = units_of(case.model, find_blocks(case.model))
    fisher_scores(case.model, units, case.batches, Objective(Problem.CLASSIFICATION))


def tangent(case: Case) -> None:
    """The tangent kernel of every layer, and its ridge regression."""
    units = units_of(case.model, find_blocks(case.model))
    tangent_scores(case.model, units, case.batches, Problem.CLASSIFICATION, seed=0)


METHODS: dict[str, Callable[[Case], None]] = {"trace": trace, "tangent": tangent}


def seconds(case: Case, rounds: int) -> dict[str, list[float]]:
    """The seconds of each method, one number for each round."""
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for turn in range(rounds + 1):
        for name, method in METHODS.items():
            start = time.perf_counter()
            method(case)
            if turn:  # the first round warms up
                found[name].append(time.perf_counter() - start)
    return found


def growth(name: str, rows: int) -> int:
    """Bytes by which this process grows at most while a method runs once (Linux)."""
    case = Setting("minilm", rows).build()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading freed would hide growth
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    METHODS[name](case)
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def growth_in_fresh_process(name: str, rows: int) -> int:
    """Measure the growth in a fresh process."""
    command = [sys.executable, "-m", "bench.fisher.tangent", "--one", name, "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """Measure both methods on this many sentences."""
    case = Setting("minilm", rows).build()
    times = seconds(case, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "case": case.name,
        "rows": rows,
        "tokens_a_row": case.tokens,
        "seconds": times,
        "ratio": medians["tangent"] / medians["trace"],
        "peak_memory_bytes": {name: growth_in_fresh_process(name, rows) for name in METHODS},
    }


def table_of(found: list[dict[str, Any]]) -> Table:
    """One row for each number of sentences."""
    table = Table(title=f"{found[0]['case']}: tangent beside the Fisher trace")
    for name in ("rows", "trace s", "tangent s", "tangent/trace", "trace MiB", "tangent MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found:
        times = [f"{statistics.median(row['seconds'][name]):.2f}" for name in METHODS]
        peaks = [f"{row['peak_memory_bytes'][name] / 2**20:.0f}" for name in METHODS]
        table.add_row(str(row["rows"]), *times, f"{row['ratio']:.2f}", *peaks)
    return table


def main() -> None:
    """Measure, print, write JSON."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 512], help="sentences scored")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("bench/results/tangent.json"))
    parser.add_argument("--one", choices=list(METHODS), help="print one method's bytes, no more")
    chosen = parser.parse_args()
    if chosen.one:
        print(growth(chosen.one, chosen.rows[0]))
        return
    found = [measure(rows, chosen.rounds) for rows in chosen.rows]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table_of(found))
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cases": found,
    }
    chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"written to {chosen.json}")


if __name__ == "__main__":
    main()
