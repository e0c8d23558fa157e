"""Growth of this process while so many rows are scored: ``python -m bench.fisher_memory 128``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from surgery.architecture import find_blocks
from surgery.fisher import fisher_scores
from surgery.spec import Problem


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def memory_of(rows: int) -> int:
    """Growth of this process while so many rows are scored, in bytes at the peak."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", hidden_size=384, num_hidden_layers=6, intermediate_size=1536
    )
    model = AutoModelForSequenceClassification.from_config(config)
    batches = (
        {
            "input_ids": torch.randint(1000, 30000, (16, 32)),
            "attention_mask": torch.ones(16, 32, dtype=torch.long),
            "labels": torch.arange(16) % 2,
        }
        for _ in range(rows // 16)
    )
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    fisher_scores(model, find_blocks(model), batches, Problem.CLASSIFICATION)
    return resident("VmHWM") - before


if __name__ == "__main__":
    print(memory_of(int(sys.argv[1])))
