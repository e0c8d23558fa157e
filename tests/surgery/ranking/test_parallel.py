"""Two processes of a group give the result of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.models.distributed import (
    Share,
    all_reduce,
    broadcast_weights,
    gather_rows,
    present_share,
)
from tests.support.processes.ranking import CASES, results
from tests.support.service.services import free_port

# Each process loads torch; a job of two is in tests/service/jobs/finetunes.
pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[2]
WORLD = 2
Json = dict[str, Any]


@pytest.fixture(scope="module")
def alone() -> Json:
    """What this process finds by itself."""
    return results()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """What each of the processes finds."""
    folder, port = tmp_path_factory.mktemp("together"), free_port()
    running = [
        subprocess.Popen(
            [sys.executable, TESTS / "support/processes/ranking.py", str(rank), str(WORLD), str(port),
             folder / str(rank)],
            env={**os.environ, "PYTHONPATH": str(TESTS.parent)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(WORLD)
    ]  # fmt: skip
    for process in running:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    return [json.loads((folder / str(rank)).read_text()) for rank in range(WORLD)]


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two results differ by more than the rounding of float64."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [d for key in first for d in differences(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for place, pair in pairs for d in differences(*pair, f"{path}/{place}")]
    numbers = isinstance(first, float) and isinstance(second, float)
    if numbers and first == pytest.approx(second, rel=1e-9, abs=1e-12):
        return []
    return [] if first == second else [f"{path}: {first} is not {second}"]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_find_what_one_does(alone: Json, together: list[Json], name: str) -> None:
    for found in together:
        assert differences(found[name], alone[name]) == []
    assert together[0][name] == together[1][name]
    assert [found[f"{name}: processes"] for found in (alone, *together)] == [1, WORLD, WORLD]


def test_no_round_is_too_small_to_share(alone: Json, together: list[Json]) -> None:
    """One row left after the first 32 is no round for two processes: all 33 are one."""
    sizes = [
        [each["samples"] for each in found["33 rows"]["adaptive"]["rounds"]]
        for found in (alone, *together)
    ]
    assert sizes[0][0] == 32
    assert sizes[1:] == [[33], [33]]


def test_more_processes_than_samples(alone: Json, together: list[Json]) -> None:
    for found in together:
        assert found["too few"] == "1 samples cannot be shared by 2 processes; start fewer"
    assert "too few" not in alone


def test_one_process_shares_with_nobody() -> None:
    share = present_share()
    assert (share.rank, share.world) == (0, 1)
    assert list(share.own("abc")) == ["a", "b", "c"]
    assert share.most_rows(3) is None
    tensor = torch.ones(2)
    assert all_reduce(tensor, share) is tensor
    broadcast_weights(torch.nn.Linear(2, 2), share)
    rows = torch.tensor([[1.0], [2.0]])
    assert gather_rows(rows, [2, 0], 3, share).tolist() == [[2.0], [0.0], [1.0]]


def test_every_item_is_somebodys() -> None:
    shares = [list(Share(rank, 3).own(range(8))) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))
    assert [len(share) for share in shares] == [3, 3, 2]
