"""Two processes of accelerate's launcher train as one does with twice the batches a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.models.mirror import TINY
from tests.support.processes.tuning import RATES, tuned

TESTS = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Path:
    """What two processes leave."""
    folder = tmp_path_factory.mktemp("together")
    run = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
         "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
         "--main_process_port", "0", TESTS / "support/processes/tuning.py", mirror / "models" / TINY,
         folder],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)}, stderr=subprocess.PIPE, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


def told(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_the_weights_are_those_of_one_process(together: Path, mirror: Path, tmp_path: Path) -> None:
    weights, alone = tuned(
        mirror / "models" / TINY, tmp_path, dropout=False, gradient_accumulation_steps=2
    )
    theirs = load_file(together / "plain.safetensors")
    for name, tensor in weights.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-9, atol=1e-9)
    found = told(together, "plain")
    assert (found["processes"], alone["processes"]) == (2, 1)
    for ours, other in zip(alone["epochs"], found["epochs"], strict=True):
        assert other["metrics"] == ours["metrics"]
        assert other["train_loss"] == pytest.approx(ours["train_loss"], rel=1e-9)


@pytest.mark.slow
def test_a_group_chooses_the_rate_that_one_process_would(
    together: Path, mirror: Path, tmp_path: Path
) -> None:
    weights, alone = tuned(
        mirror / "models" / TINY, tmp_path, dropout=False, gradient_accumulation_steps=2, **RATES
    )
    theirs, found = load_file(together / "rates.safetensors"), told(together, "rates")
    for name, tensor in weights.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-9, atol=1e-9)
    assert len(found["trials"]) == 2
    for ours, other in zip(alone["trials"], found["trials"], strict=True):
        assert other["metric"] == ours["metric"]
        assert other["loss"] == pytest.approx(ours["loss"], rel=1e-6)  # of logits in float32


@pytest.mark.slow
def test_a_group_resumes_to_the_same_weights(together: Path) -> None:
    whole, cut = (load_file(together / f"{name}.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    assert told(together, "whole") == told(together, "cut")
