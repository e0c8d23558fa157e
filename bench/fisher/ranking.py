"""How long a ranking takes once the model is loaded: python -m bench.fisher.ranking [--device cuda]

BERT-base's shape with random weights (or the real MiniLM) on 256 sentences, by the Fisher trace, in
the precision that the device gets by default. The first round also pays for what the device
compiles and caches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.finetune.__main__ import ENCODERS, encoder_folder
from bench.fisher.cases import sentences
from bench.tables import Target
from surgery.data.tokens.dataset import TaskData
from surgery.io.sources import Sources
from surgery.models.loading import load_model
from surgery.models.memory import peak_bytes, reset_peak
from surgery.models.source.resolve import local_model
from surgery.ranking.ranking import rank_layers
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.ranking import RankingOptions

Json = dict[str, Any]
AIM = 1.0  # seconds to score 256 samples of BERT-base on a data-centre GPU


def measure(encoder: str, samples: int, rounds: int, device: str, scratch: Path) -> list[Json]:
    """The seconds of each phase of a ranking, for each round."""
    source, table = sentences(samples)
    data = TaskData(table, table.select(range(2)), Problem.CLASSIFICATION, ["no", "yes"], ())
    sources = Sources((), cache=scratch, offline=True)
    model = local_model(encoder_folder(encoder, scratch))
    loaded = load_model(model, sources, data, seed=0, head="new", device=device)
    options = RankingOptions(samples=samples, bootstrap=1000, model_prior=False)
    found = []
    for _ in range(rounds):
        reset_peak()
        began = time.perf_counter()
        result = rank_layers(loaded, data, options)
        found.append(
            {
                "rows": source,
                "precision": result.precision,
                "path": result.path,
                "total": time.perf_counter() - began,
                "peak_bytes": peak_bytes(),
                **result.seconds,
            }
        )
    return found


def main() -> None:
    """One row for each round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="bert-base", choices=list(ENCODERS))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, default=Path("bench/results/ranking.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ranking-") as scratch:
        rounds = measure(given.encoder, given.samples, given.rounds, given.device, Path(scratch))
    for each in rounds:
        print(
            " ".join(
                f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in each.items()
            )
        )
    scored = [each["score"] for each in rounds[1:] or rounds]
    name = f"{ENCODERS[given.encoder]}, {given.samples} samples, {rounds[0]['precision']}"
    middle = sorted(scored)[len(scored) // 2]
    target = Target(name, "seconds of scoring, after the first round", middle, min(scored), AIM)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    told = {"rounds": rounds, "targets": [{**asdict(target), "met": target.met}]}
    given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
