"""Where the states of a frozen prefix are kept, for how long, and what becomes of a job without."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from surgery.errors import TrainingInvalid
from surgery.io.reporter import Quiet, Stopped
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from surgery.training.prefix_cache.cache import Prefix, SplitRows
from surgery.training.prefix_cache.store import Room, release_memory
from tests.support.models.prefixes import ROOM, data_of, frozen_below, logits_of, opened, splits_of
from tests.support.models.toys import toy_data

ROWS = list(range(12))


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    release_memory()
    yield
    release_memory()


@pytest.fixture
def loaded() -> LoadedModel:
    return frozen_below("bert", 2)


@pytest.fixture
def splits(loaded: LoadedModel) -> dict[str, SplitRows]:
    return splits_of(loaded, data_of(Problem.CLASSIFICATION))


@pytest.fixture
def disk(tmp_path: Path) -> Room:
    return Room(folder=tmp_path / "prefixes", memory_bytes=0)


def replays(prefix: Prefix, loaded: LoadedModel, splits: dict[str, SplitRows]) -> bool:
    """Whether the stored states give the plain model's predictions to the last bits."""
    encoded = splits["validation"].encoded
    plain = logits_of(loaded, encoded, ROWS)
    with prefix.installed(), prefix.replay("validation", ROWS):
        return torch.allclose(logits_of(loaded, encoded, ROWS), plain, rtol=1e-9, atol=1e-12)


def folders(room: Room) -> set[str]:
    assert room.folder is not None
    return {path.name for path in room.folder.iterdir()} if room.folder.is_dir() else set()


class Stopping(Quiet):
    """Stops a run at a report of progress."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.steps, self._stop_at = 0, stop_at

    def step(self, *_: object) -> None:
        self.steps += 1
        if self.steps == self._stop_at:
            raise Stopped(resumable=False)


class TestMemory:
    def test_the_next_run_of_the_process_finds_them(
        self, loaded: LoadedModel, splits: dict[str, SplitRows]
    ) -> None:
        first, second = opened(loaded, splits), opened(loaded, splits)
        assert (first.report.mode, first.report.reused) == ("memory", False)
        assert (second.report.mode, second.report.reused) == ("memory", True)
        assert second.report.bytes == first.report.bytes == 8 * 16 * (first.report.states + 2)
        assert replays(second, loaded, splits)

    def test_states_of_another_model_make_way(
        self, loaded: LoadedModel, splits: dict[str, SplitRows]
    ) -> None:
        opened(loaded, splits)
        opened(frozen_below("bert", 1), splits)
        assert not opened(loaded, splits).report.reused

    def test_other_labels_share_them(self, loaded: LoadedModel) -> None:
        opened(loaded, splits_of(loaded, data_of(Problem.CLASSIFICATION)))
        assert opened(loaded, splits_of(loaded, data_of(Problem.REGRESSION))).report.reused

    def test_other_frozen_weights_do_not(
        self, loaded: LoadedModel, splits: dict[str, SplitRows]
    ) -> None:
        opened(loaded, splits)
        with torch.no_grad():
            next(loaded.blocks[0].module.parameters())[0, 0] += 1e-6
        changed = opened(loaded, splits)
        assert not changed.report.reused
        assert replays(changed, loaded, splits)

    def test_weights_above_the_prefix_do_not_count(
        self, loaded: LoadedModel, splits: dict[str, SplitRows]
    ) -> None:
        opened(loaded, splits)
        with torch.no_grad():
            next(loaded.blocks[2].module.parameters())[0, 0] += 1
        assert opened(loaded, splits).report.reused

    def test_a_stopped_run_leaves_none(
        self, loaded: LoadedModel, splits: dict[str, SplitRows]
    ) -> None:
        with pytest.raises(Stopped):
            opened(loaded, splits, report=Stopping(stop_at=2))
        assert not opened(loaded, splits).report.reused


class TestDisk:
    @pytest.mark.parametrize("cache", ["auto", "disk"])
    def test_a_file_takes_what_memory_does_not(
        self, loaded: LoadedModel, splits: dict[str, SplitRows], disk: Room, cache: str
    ) -> None:
        prefix = opened(loaded, splits, room=disk, prefix_cache=cache)
        assert (prefix.report.mode, prefix.report.reused) == ("disk", False)
        assert replays(prefix, loaded, splits)
        again = opened(loaded, splits, room=disk, prefix_cache=cache)
        assert (again.report.mode, again.report.reused) == ("disk", True)
        assert replays(again, loaded, splits)
        assert len(folders(disk)) == 2

    def test_other_frozen_weights_have_another(
        self, loaded: LoadedModel, splits: dict[str, SplitRows], disk: Room
    ) -> None:
        opened(loaded, splits, room=disk)
        with torch.no_grad():
            next(loaded.blocks[0].module.parameters())[0, 0] += 1e-6
        prefix = opened(loaded, splits, room=disk)
        assert not prefix.report.reused
        assert replays(prefix, loaded, splits)
        assert len(folders(disk)) == 4

    def test_a_stopped_run_leaves_nothing(
        self, loaded: LoadedModel, splits: dict[str, SplitRows], disk: Room
    ) -> None:
        with pytest.raises(Stopped):
            opened(loaded, splits, room=disk, report=Stopping(stop_at=1))
        assert folders(disk) == set()

    def test_what_was_not_used_for_longest_makes_way(
        self, loaded: LoadedModel, splits: dict[str, SplitRows], disk: Room
    ) -> None:
        lower = frozen_below("bert", 1)
        opened(loaded, splits, room=disk)
        first = folders(disk)
        size = 0
        for name in first:
            path = disk.folder / name  # type: ignore[operator]
            size += sum(file.stat().st_blocks * 512 for file in path.iterdir())
            os.utime(path, (time.time() - 60,) * 2)
        tight = Room(disk.folder, 0, int(size * 1.5))
        assert opened(lower, splits, room=tight).report.mode == "disk"
        left = folders(disk)
        assert len(left - first) == 2
        assert len(left & first) < 2

    def test_a_damaged_file_is_computed_again(
        self, loaded: LoadedModel, splits: dict[str, SplitRows], disk: Room
    ) -> None:
        opened(loaded, splits, room=disk)
        assert disk.folder is not None
        for path in disk.folder.glob("*/states.npy"):
            path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
        prefix = opened(loaded, splits, room=disk)
        assert (prefix.report.mode, prefix.report.reused) == ("disk", False)
        assert replays(prefix, loaded, splits)

    def test_bf16_takes_half_the_room(self, splits: dict[str, SplitRows], disk: Room) -> None:
        loaded = frozen_below("bert", 2, dtype=torch.float32)
        whole = opened(loaded, splits, room=disk)
        half = opened(loaded, splits, room=disk, prefix_cache_dtype="bf16")
        assert (whole.report.dtype, half.report.dtype) == ("float32", "bfloat16")
        assert half.report.bytes * 2 == whole.report.bytes
        again = opened(loaded, splits, room=disk, prefix_cache_dtype="bf16")
        assert again.report.reused
        encoded = splits["validation"].encoded
        plain = logits_of(loaded, encoded, ROWS)
        with again.installed(), again.replay("validation", ROWS):
            rounded = logits_of(loaded, encoded, ROWS)
        assert 0 < (rounded - plain).abs().max() < 0.02 * plain.abs().max()


class TestWithout:
    @pytest.mark.parametrize("cache", ["memory", "disk"])
    def test_a_place_that_is_too_small_is_an_error(
        self, loaded: LoadedModel, splits: dict[str, SplitRows], tmp_path: Path, cache: str
    ) -> None:
        room = Room(tmp_path, memory_bytes=100, disk_bytes=100)
        with pytest.raises(TrainingInvalid, match=f"prefix_cache {cache} is not possible") as error:
            opened(loaded, splits, room=room, prefix_cache=cache)
        assert error.value.faults[0].pointer == "/training/prefix_cache"
        assert "MiB" in str(error.value)
        assert folders(Room(tmp_path)) == set()

    def test_auto_computes_them_again_where_neither_has_room(
        self, loaded: LoadedModel, splits: dict[str, SplitRows], tmp_path: Path
    ) -> None:
        prefix = opened(loaded, splits, room=Room(tmp_path, memory_bytes=100, disk_bytes=100))
        assert prefix.report.mode == "recompute"
        assert "of memory" in prefix.report.reason
        assert "on disk" in prefix.report.reason
        assert replays(prefix, loaded, splits)

    def test_a_run_of_less_than_an_epoch_has_nothing_to_reuse(
        self, loaded: LoadedModel, splits: dict[str, SplitRows]
    ) -> None:
        assert opened(loaded, splits, passes=0.5).report.mode == "recompute"
        assert opened(loaded, splits, passes=0.5, prefix_cache="memory").report.mode == "memory"
        assert opened(loaded, splits, passes=0.5).report.reused  # it is there already

    @pytest.mark.parametrize(
        ("kind", "lowest", "include", "why"),
        [
            ("bert", 0, [], "the lowest layer trains"),
            ("bert", 2, ["embeddings"], "what runs before the layers trains"),
            ("xlnet", 2, ["embeddings"], "what runs before the layers trains"),
            ("albert", 0, [], "the lowest layer trains"),
            ("albert groups", 1, [], "also runs above the lowest trained layer"),
        ],
    )
    def test_there_may_be_no_frozen_prefix(
        self, kind: str, lowest: int, include: list[str], why: str
    ) -> None:
        loaded = frozen_below(kind, lowest, include=include)
        prefix = opened(loaded, splits_of(loaded, toy_data()), prefix_cache="memory")
        assert prefix.report.mode == "none"
        assert why in prefix.report.reason

    @pytest.mark.parametrize(
        ("lowest", "problem", "why"),
        [
            (3, Problem.CLASSIFICATION, "outputs states of shape"),
            (2, Problem.TOKEN_CLASSIFICATION, "does not give the model's own predictions"),
        ],
    )
    def test_funnel_pools_between_its_layers(self, lowest: int, problem: Problem, why: str) -> None:
        loaded = frozen_below("funnel", lowest, problem)
        splits = splits_of(loaded, data_of(problem))
        prefix = opened(loaded, splits)
        assert prefix.report.mode == "recompute"
        assert why in prefix.report.reason
        with pytest.raises(TrainingInvalid, match="is not possible"):
            opened(loaded, splits, prefix_cache="memory")

    def test_shared_layers_are_kept_where_only_the_head_trains(self) -> None:
        loaded = frozen_below("albert", 1)
        prefix = opened(loaded, splits_of(loaded, toy_data()))
        assert (prefix.report.mode, prefix.report.layers, prefix.report.share) == ("memory", 3, 1.0)


def test_a_head_on_the_first_token_needs_no_other_state() -> None:
    for kind, each in {"bert": 1, "xlnet": None}.items():
        loaded = frozen_below(kind, 3)
        splits = splits_of(loaded, toy_data())
        states = opened(loaded, splits, room=ROOM).report.states
        rows = sum(len(split.encoded) for split in splits.values())
        tokens = sum(len(split.encoded.ids) for split in splits.values())
        assert states == (rows if each else tokens)
        release_memory()
