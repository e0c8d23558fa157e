"""Peak memory of one method above the loaded model, in a fresh process.

    python -m bench.fisher.memory '{"kind": "bert-base", "rows": 8, "length": 16}' trace

prints bytes. Copies of the model that a library's preparation makes are part of the loaded model.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from bench.fisher.cases import Setting
from bench.fisher.measure import Measured
from bench.fisher.methods import AUTHORS, OURS, YARDSTICKS, Method
from bench.fisher.peers import PEERS
from bench.tables import resident

METHODS: dict[str, Method] = {m.name: m for m in [*YARDSTICKS, *OURS, AUTHORS, *PEERS]}


def growth(setting: Setting, method: Method) -> int:
    """Peak growth of this process, or of the GPU's allocated memory, while a method runs once."""
    run = method.prepare(setting.build())
    gc.collect()
    if setting.device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what loading freed would hide growth
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def growth_in_fresh_process(setting: Setting, method: str) -> int | None:
    """Measure the peak in a fresh process; None if the method fails or runs out of memory."""
    command = [sys.executable, "-m", "bench.fisher.memory", json.dumps(asdict(setting)), method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def fill_memory(setting: Setting, found: Sequence[Measured]) -> None:
    """Note the peak of every method that ran."""
    for measured in found:
        if not measured.failure:
            measured.peak_bytes = growth_in_fresh_process(setting, measured.method)


def growth_by_rows(setting: Setting, method: str, factors: Sequence[int]) -> dict[int, int | None]:
    """Peaks for more and more rows: bytes by number of rows."""
    settings = [replace(setting, rows=setting.rows * factor) for factor in factors]
    return {each.rows: growth_in_fresh_process(each, method) for each in settings}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(growth(Setting(**json.loads(sys.argv[1])), METHODS[sys.argv[2]]))
