"""Fine-tunes on the device: the obvious loop, kills, caches, formats, adapters, checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import surgery
from surgery.data.tokens.dataset import TaskData, on_device
from surgery.data.tokens.tokenize import encode
from surgery.io.reporter import Quiet
from surgery.models.blocks import model_inputs
from surgery.models.loading import LoadedModel
from surgery.models.numerics import has_bfloat16, with_precision
from surgery.models.trainable import freeze_all_but, layers_of_model
from surgery.schemas.enums import TrainingPrecision
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.options.training import TrainingSpec, total_steps, warmup_steps
from surgery.training.loop import finetune
from surgery.training.optimizer import rate_factors
from surgery.training.prefix_cache.store import Room, _in_memory, release_memory
from tests.support.devices import SLOW_ON_CPU
from tests.support.models.mirror import TINY
from tests.support.models.sentence_runs import TRAINED, distance, fresh, spec_of, tuned, weights
from tests.support.processes import tuning as tuning_process
from tests.support.processes.killed_run import ROWS, TRAINING
from tests.support.reference import training as reference_training

TESTS = Path(__file__).parents[1]
FP32: dict[str, Any] = {"precision": "fp32"}


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    release_memory()
    yield
    release_memory()


def on_cpu(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in weights(loaded).items()}


def program(name: str, *arguments: object, launcher: tuple[str, ...] = ()) -> Any:
    """Run one of the helpers as a process of its own."""
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *launcher, TESTS / name, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True, check=False,
        timeout=200,
    )  # fmt: skip


def test_the_loop_is_the_obvious_one_of_the_cpu(
    mirror: Path, data: TaskData, tmp_path: Path, device: torch.device
) -> None:
    """In float64 and without dropout, against one row at a time on the CPU."""
    training = spec_of(**FP32).training
    theirs, ours = fresh(mirror, data), fresh(mirror, data)
    layers = [layers_of_model(theirs)[index] for index in TRAINED]
    trained = freeze_all_but(theirs, layers, [])
    encoded = encode(data.train, theirs.tokenizer, training.max_length)
    steps = total_steps(training, len(encoded))
    reference_training.train(
        theirs.model, trained, encoded, training, warmup=warmup_steps(training, steps),
        factors=rate_factors(theirs, trained, layers, training, None),
    )  # fmt: skip
    result = tuned(ours, data, tmp_path, **FP32)
    assert next(ours.model.parameters()).device.type == device.type
    assert distance(on_cpu(theirs), on_cpu(ours)) < 1e-7
    assert result.frozen_verified
    assert result.precision is TrainingPrecision.FP32


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_goes_on_to_the_same_bits(
    precision: str, mirror: Path, data: TaskData, tmp_path: Path, device: torch.device
) -> None:
    """With dropout: the random state of the device is part of what was saved."""
    assert len(data.train) + len(data.validation) == ROWS
    whole = fresh(mirror, data, dropout=True)
    options = {**TRAINING, "precision": precision}
    expected = tuned(whole, data, tmp_path / "whole", **options)
    killed = program("support/processes/killed_run.py", mirror, tmp_path / "killed", precision)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved = Path((tmp_path / "killed" / "saved").read_text())
    states = load_file(saved / "state.safetensors")["random"]
    with_gpu = states.shape[1] > len(torch.get_rng_state())
    assert with_gpu == (device.type == "cuda")
    again = fresh(mirror, data, dropout=True)
    result = tuned(again, data, tmp_path / "again", resume=saved, **options)
    assert distance(weights(whole), weights(again)) == 0.0
    assert result.epochs == expected.epochs


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_the_prefix_cache_changes_nothing(
    place: str, mirror: Path, data: TaskData, tmp_path: Path, device: torch.device
) -> None:
    found = []
    for cache in (place, "off"):
        loaded = fresh(mirror, data)
        layers = layers_of_model(loaded)[2:]
        spec = spec_of(prefix_cache=cache, **FP32)
        result = finetune(
            loaded, data, spec, layers, Quiet(tmp_path / cache), room=Room(tmp_path / "states")
        )
        assert result.prefix is not None
        assert result.prefix.mode == ("recompute" if cache == "off" else place)
        if cache == "memory":
            assert _in_memory
            assert {states.device.type for states in _in_memory.values()} == {device.type}
        found.append(on_cpu(loaded))
    assert distance(*found) < 1e-9


def test_half_precision_stays_near(
    mirror: Path, data: TaskData, tmp_path: Path, device: torch.device
) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        loaded = fresh(mirror, data)
        loaded.model.float()
        result = tuned(loaded, data, tmp_path / precision, precision=precision)
        assert result.precision.value == precision
        found.append(on_cpu(loaded))
    assert 0 < distance(*found) < 0.05
    chosen = with_precision(TrainingSpec(), device).precision
    assert chosen is (TrainingPrecision.BF16 if has_bfloat16(device) else TrainingPrecision.FP32)


def test_lora_moves_nothing_else(
    mirror: Path, data: TaskData, tmp_path: Path, device: torch.device
) -> None:
    loaded = fresh(mirror, data, dropout=True)
    spec = FinetuneSpec.model_validate({
        "model": "m", "dataset": "d", "adapter": {"type": "lora", "rank": 4},
        "training": {
            "epochs": 2, "learning_rate": 1e-2, "batch_size": 8, "max_length": 24,
            "head": {"warmup_epochs": 0},  # so that there is something to learn
        },
    })  # fmt: skip
    result = finetune(loaded, data, spec, [], Quiet(tmp_path))
    assert result.frozen_verified
    assert result.epochs[-1].train_loss is not None
    assert result.epochs[0].train_loss is not None
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert {p.device.type for p in loaded.model.parameters()} == {device.type}


@pytest.mark.parametrize("form", ["delta", "full"])
def test_a_checkpoint_is_the_model_that_was_trained(
    form: str, mirror: Path, data: TaskData, tmp_path: Path, device: torch.device
) -> None:
    """Loaded on the CPU, it says what the trained model says on the device."""
    loaded = fresh(mirror, data, dropout=True)
    spec = FinetuneSpec.model_validate(
        {**spec_of(**FP32).model_dump(), "checkpoints": {"form": form}}
    )
    layers = layers_of_model(loaded)[2:]
    result = finetune(loaded, data, spec, layers, Quiet(tmp_path / "out"))
    kept = tmp_path / "out" / f"checkpoint-{result.epochs[-1].step}"
    model: nn.Module = surgery.load(mirror / "models" / TINY, kept)
    batch = encode(data.validation, loaded.tokenizer, 24).batch([0, 1, 2])
    loaded.model.eval()
    with torch.no_grad():
        there = loaded.model(**model_inputs(loaded.model, on_device(batch, device))).logits
        here = model(**model_inputs(model, batch)).logits
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
def test_one_process_of_a_group_is_no_different(
    mirror: Path, tmp_path: Path, device: torch.device
) -> None:
    """Under NCCL on a GPU, under gloo elsewhere."""
    model = mirror / "models" / TINY
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    done = program("support/processes/tuning.py", model, tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "plain.json").read_text())
    assert told["backend"] == ("nccl" if device.type == "cuda" else "gloo")
    alone, _ = tuning_process.tuned(model, tmp_path / "alone", dropout=False)
    for name, tensor in load_file(tmp_path / "plain.safetensors").items():
        torch.testing.assert_close(tensor, alone[name].cpu(), rtol=1e-7, atol=1e-9)
    whole, cut = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
