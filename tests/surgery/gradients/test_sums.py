"""Sums of the parameters' size, and where the first half waits for the second."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from surgery.gradients import accumulators
from surgery.gradients.accumulators import Diagonal, Offloaded
from surgery.ranking.ranking import rank_layers
from surgery.schemas.jobs.ranking import RankingOptions
from tests.support.models.toys import toy_data, toy_model

SCORED = {"a": nn.Parameter(torch.zeros(2, 3)), "b": nn.Parameter(torch.zeros(4))}


@pytest.fixture
def everything_is_offloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(accumulators, "OFFLOADED_BYTES", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def sum_of_two() -> Diagonal:
    found = Diagonal(SCORED)
    generator = torch.Generator().manual_seed(0)
    found.add_linear(
        "a", torch.randn(2, 5, 3, generator=generator), torch.randn(2, 5, 2, generator=generator)
    )
    found.add_vector("b", torch.randn(2, 4, generator=generator))
    return found


def test_offloaded_sums_are_the_same_and_leave_no_file(everything_is_offloaded: Path) -> None:
    here, offloaded = sum_of_two(), sum_of_two()
    offloaded.offload()
    assert isinstance(offloaded.sums, Offloaded)
    assert list(offloaded.sums) == ["a", "b"]
    assert len(offloaded.sums) == 2
    for name, total in here.sums.items():
        assert torch.equal(offloaded.sums[name], total)
    assert list(everything_is_offloaded.iterdir()) != []
    del offloaded
    gc.collect()
    assert list(everything_is_offloaded.iterdir()) == []


def test_small_sums_stay() -> None:
    found = sum_of_two()
    found.offload()
    assert not isinstance(found.sums, Offloaded)


@pytest.mark.parametrize("options", [{"aggregate": "frobenius"}, {"method": "snip"}])
def test_offloading_changes_no_ranking(
    options: dict[str, str], everything_is_offloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = RankingOptions(**options, samples=12)
    offloaded = rank_layers(toy_model(), toy_data(), wanted)
    monkeypatch.setattr(accumulators, "OFFLOADED_BYTES", 1 << 40)
    here = rank_layers(toy_model(), toy_data(), wanted)
    assert offloaded.layers == here.layers
    assert offloaded.stability == here.stability
