"""Whole fine-tunes with and without the states below the lowest trained layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from surgery.data.tokens.dataset import TaskData
from surgery.io.reporter import Quiet, Stopped
from surgery.models.loading import LoadedModel
from surgery.models.trainable import layers_of_model
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.training.loop import finetune
from surgery.training.prefix_cache.store import Room, release_memory
from tests.support.models.checkpoints import loaded_from
from tests.support.models.mirror import TINY
from tests.support.models.sentence_runs import distance, weights
from tests.support.models.toys import sentences

UPPER = (2, 3)


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    release_memory()
    yield
    release_memory()


@pytest.fixture(scope="module")
def data() -> TaskData:
    return sentences(48)


@pytest.fixture
def fresh(mirror: Path, data: TaskData) -> Any:
    """The same start each time."""
    return lambda: loaded_from(mirror / "models" / TINY, data)


class Draining(Quiet):
    """Has the run leave at a step, keeping its state."""

    def __init__(self, out: Path, at: int) -> None:
        super().__init__(out)
        self._at = at
        self.left: Path | None = None

    def step(self, done: int, _total: int | None, unit: str) -> None:
        if unit == "steps" and done == self._at:
            raise Stopped(resumable=True)

    def state(self, directory: Path, _step: int) -> None:
        self.left = directory


def tuned(
    loaded: LoadedModel, data: TaskData, out: Path, *, layers: tuple[int, ...] = UPPER,
    report: Quiet | None = None, resume: Path | None = None, room: Room | None = None,
    track: bool = False, **training: Any,
) -> FinetuneResult:  # fmt: skip
    names = [layers_of_model(loaded)[index].name for index in layers]
    spec = FinetuneSpec.model_validate({
        "model": "m", "dataset": "d", "track_ranking": track,
        "selection": {"policy": "layers", "layers": names} if names else {"policy": "head_only"},
        "training": {
            "epochs": 2, "learning_rate": 3e-3, "batch_size": 8, "max_length": 24, "seed": 3,
            "head": {"warmup_epochs": 0}, **training,
        },
    })  # fmt: skip
    chosen = [layers_of_model(loaded)[index] for index in layers]
    return finetune(loaded, data, spec, chosen, report or Quiet(out), resume, None, room)


@pytest.mark.parametrize("layers", [UPPER, (), (1, 3)])
def test_the_cache_changes_nothing_but_the_time(
    fresh: Any, data: TaskData, tmp_path: Path, layers: tuple[int, ...]
) -> None:
    """In train mode, with dropout above the prefix."""
    room = Room(folder=tmp_path / "prefixes")
    ends, results = {}, {}
    for cache in ("off", "memory", "disk"):
        loaded = fresh()
        assert any(isinstance(m, nn.Dropout) and m.p > 0 for m in loaded.model.modules())
        results[cache] = tuned(
            loaded, data, tmp_path / cache, layers=layers, room=room, prefix_cache=cache
        )
        ends[cache] = weights(loaded)
        assert "forward" not in {key for m in loaded.model.modules() for key in vars(m)}
    assert distance(ends["memory"], ends["off"]) < 1e-5
    assert distance(ends["disk"], ends["memory"]) == 0
    modes = {cache: result.prefix.mode for cache, result in results.items() if result.prefix}
    assert modes == {"off": "recompute", "memory": "memory", "disk": "disk"}
    for result in results.values():
        assert result.best.metrics == pytest.approx(results["off"].best.metrics, abs=1e-6)
        assert result.frozen_verified


def test_rounded_states_train_as_well(fresh: Any, data: TaskData, tmp_path: Path) -> None:
    whole, rounded = fresh(), fresh()
    first = tuned(whole, data, tmp_path / "1")
    second = tuned(rounded, data, tmp_path / "2", prefix_cache_dtype="bf16")
    assert first.prefix is not None
    assert second.prefix is not None
    assert second.prefix.bytes * 2 == first.prefix.bytes
    assert 0 < distance(weights(whole), weights(rounded)) < 0.05


def test_a_resumed_run_computes_the_states_again_and_ends_the_same(
    fresh: Any, data: TaskData, tmp_path: Path
) -> None:
    whole, cut = fresh(), fresh()
    tuned(whole, data, tmp_path / "whole")
    report = Draining(tmp_path / "cut", at=7)
    with pytest.raises(Stopped):
        tuned(cut, data, tmp_path / "cut", report=report)
    assert report.left is not None
    release_memory()  # a resumed attempt is another process
    resumed = fresh()
    result = tuned(resumed, data, tmp_path / "resumed", resume=report.left)
    assert result.prefix is not None
    assert (result.prefix.mode, result.prefix.reused) == ("memory", False)
    assert distance(weights(whole), weights(resumed)) == 0


@pytest.mark.parametrize("room", [{}, {"memory_bytes": 100, "disk_bytes": 100}])
def test_a_resumed_run_replays_states_where_it_did_before(
    fresh: Any, data: TaskData, tmp_path: Path, room: dict[str, int]
) -> None:
    """Whatever would be decided now: other rounding would end with other weights."""
    small = Room(tmp_path / "prefixes", **room)
    whole, cut, resumed = fresh(), fresh(), fresh()
    mode = tuned(whole, data, tmp_path / "whole", room=small).prefix
    report = Draining(tmp_path / "cut", at=7)
    with pytest.raises(Stopped):
        tuned(cut, data, tmp_path / "cut", report=report, room=small)
    release_memory()
    again = tuned(resumed, data, tmp_path / "resumed", resume=report.left)
    assert mode is not None
    assert again.prefix is not None
    assert again.prefix.mode == mode.mode == ("recompute" if room else "memory")
    assert distance(weights(whole), weights(resumed)) == 0


def test_the_next_job_of_a_comparison_finds_the_states(
    fresh: Any, data: TaskData, tmp_path: Path
) -> None:
    """Another seed draws another head, but the prefix is the same."""
    reused = []
    for seed in (0, 1):
        result = tuned(fresh(), data, tmp_path / str(seed), seed=seed)
        assert result.prefix is not None
        reused.append(result.prefix.reused)
    assert reused == [False, True]


def test_tracking_sees_the_whole_model(fresh: Any, data: TaskData, tmp_path: Path) -> None:
    """The layers below the trained ones are scored too, as without a cache."""
    found = [
        tuned(fresh(), data, tmp_path / cache, track=True, epochs=1, prefix_cache=cache)
        for cache in ("off", "memory")
    ]
    scores = [result.epochs[-1].ranking for result in found]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[1].scores == pytest.approx(scores[0].scores, rel=1e-3)
    assert len(scores[0].scores) == 4


def test_half_precision_steps_replay_what_they_would_compute(
    fresh: Any, data: TaskData, tmp_path: Path
) -> None:
    ends = []
    for cache in ("off", "memory"):
        loaded = fresh()
        result = tuned(loaded, data, tmp_path / cache, precision="bf16", prefix_cache=cache)
        assert result.prefix is not None
        assert result.prefix.mode == {"off": "recompute", "memory": "memory"}[cache]
        ends.append(weights(loaded))
    assert distance(*ends) < 0.02
    assert torch.get_float32_matmul_precision() == "highest"
