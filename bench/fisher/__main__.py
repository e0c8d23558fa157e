"""What per-sample scores cost, beside ordinary training and other libraries, on the same batches.

    python -m bench.fisher [--quick] [--lengths 16 128] [--methods plain limit trace]
                           [--device cuda] [--dtype bfloat16] [--tokens 4096] [--rounds 5]
                           [--json PATH]

``plain`` is one forward and backward pass with gradients of every block parameter; ``limit`` the
same without them, what any method pays that needs the gradient of each activation. Methods take
turns after a first round that warms up and is compared with one sample at a time.
``x limit`` is the median over that of ``limit``; ~ is scaled up from a few rows. CoLA's sentences
come from the folders in SURGEON_MIRROR_DIR; without them the sentences are made up.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging as transformers_logging

from bench.fisher.cases import ARCHITECTURES, Setting, tiny
from bench.fisher.measure import TOLERANCE, Measured, measure, twin_of
from bench.fisher.memory import METHODS, fill_memory, growth_by_rows
from bench.fisher.methods import AUTHORS, OURS, YARDSTICKS, Method
from bench.fisher.peers import FUNCTORCH, PEERS
from bench.fisher.tables import architecture_table, case_table, rows_table, targets_of
from bench.tables import Target, machine, targets_table

ROWS = {16: 32, 32: 16, 128: 6, 512: 2}  # of BERT-base, by tokens a row: some seconds a round
QUICK_ROWS = {16: 8, 128: 2}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: a few minutes")
    parser.add_argument("--lengths", type=int, nargs="*", help="tokens a row of BERT-base")
    parser.add_argument("--tokens", type=int, help="of a batch of BERT-base; default: for a CPU")
    parser.add_argument("--samples", type=int, help="sentences for MiniLM; 0 leaves it out")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="only these")
    parser.add_argument("--rounds", type=int, help="timed rounds")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="float32", choices=list(TOLERANCE))
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--json", type=Path, default=Path("bench/results/fisher.json"))
    given = parser.parse_args()
    if given.lengths is None:
        given.lengths = list(QUICK_ROWS if given.quick else ROWS)
    if given.samples is None:
        given.samples = 64 if given.quick else 256
    if given.rounds is None:
        given.rounds = 3 if given.quick else 5
    return given


def settings(given: argparse.Namespace) -> list[Setting]:
    """The cases that the command line selects."""
    rows = {length: max(1, min(32, 1024 // length)) for length in given.lengths}
    rows |= {n: c for n, c in (QUICK_ROWS if given.quick else ROWS).items() if n in rows}
    if given.tokens:
        rows = {length: max(1, given.tokens // length) for length in given.lengths}
    found = [
        Setting("bert-base", count, length, given.device, given.dtype)
        for length, count in rows.items()
    ]
    if given.samples:
        found.append(Setting("minilm", given.samples, 0, given.device, given.dtype))
    return found


def methods_of(setting: Setting, names: Sequence[str] | None) -> list[Method]:
    """The methods of a case. The authors' one pads every row fully, so only MiniLM gets it."""
    authors = [AUTHORS] if setting.kind == "minilm" else []
    methods = [*YARDSTICKS, *OURS, *authors, *PEERS]
    return [method for method in methods if names is None or method.name in names]


def measure_case(
    setting: Setting, given: argparse.Namespace, console: Console
) -> tuple[dict[str, Any], list[Target]]:
    """Time, compare, and print one case."""
    case = setting.build()
    console.print(f"measuring {case.name}: {case.rows} rows", style="dim")
    found = measure(case, methods_of(setting, given.methods), given.rounds, twin_of(case))
    if not given.no_memory:
        fill_memory(setting, found)
    console.print(case_table(case, found))
    explain(found, console)
    targets = targets_of(case, found)
    return {"case": case.name, "tokens": case.tokens, **report(setting, found)}, targets


def report(setting: Setting, found: Sequence[Measured]) -> dict[str, Any]:
    """The entry of the case in the JSON file."""
    return {
        "setting": asdict(setting),
        "methods": [{**asdict(measured), "verdict": measured.verdict} for measured in found],
    }


def explain(found: Sequence[Measured], console: Console) -> None:
    """Print the message of each method that failed."""
    for measured in found:
        if measured.message:
            console.print(f"  {measured.method}: {measured.message}", style="dim", markup=False)


def measure_architectures(device: str, console: Console) -> dict[str, list[Measured]]:
    """Whether each method is right on three architectures, too small to time."""
    methods = [*OURS, *PEERS[:3], FUNCTORCH, *PEERS[3:]]
    found = {}
    for architecture in ARCHITECTURES:
        case = tiny(architecture, device)
        found[architecture] = measure(case, methods, 0, twin_of(case))
    console.print(architecture_table(found))
    for measured in found.values():
        explain(measured, console)
    return found


def main() -> None:
    """Measure, print, write JSON."""
    given = arguments()
    warnings.simplefilter("ignore")  # libraries warn in every round; the tables say what matters
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 120)
    found = {"machine": machine(), "device": given.device, "dtype": given.dtype}
    console.print(", ".join(f"{key}: {value}" for key, value in found["machine"].items()))
    measured = [measure_case(setting, given, console) for setting in settings(given)]
    found["cases"] = [case for case, _ in measured]
    targets = [target for _, of_case in measured for target in of_case]
    if given.methods is None:
        architectures = measure_architectures(given.device, console)
        found["architectures"] = {
            name: [{**asdict(m), "verdict": m.verdict} for m in row]
            for name, row in architectures.items()
        }
    if not given.no_memory:
        small = Setting("small", 16, 32, given.device, given.dtype)
        grown = growth_by_rows(small, "trace", (1, 4, 16))
        console.print(rows_table("trace, 6 layers of 384", grown))
        found["peak_memory_bytes_by_rows"] = grown
    console.print(targets_table(targets))
    found["targets"] = [{**asdict(target), "met": target.met} for target in targets]
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"written to {given.json}")


if __name__ == "__main__":
    main()
