"""Runs that train an adapter: what changes, what is reported, and that they resume exactly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from surgery.data.tokens.dataset import TaskData
from surgery.errors import SelectionMismatch
from surgery.io.reporter import Quiet, Stopped
from surgery.io.sources import Sources
from surgery.models.layers import check_adapter, is_bias
from surgery.models.loading import LoadedModel
from surgery.models.source.resolve import inspect_model, local_model
from surgery.models.trainable import count_trainable, unadapted_state
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.training.loop import finetune
from tests.support.models.mirror import TINY
from tests.surgery.training.tracking.test_tracking import (
    Watched,
    data,  # noqa: F401  # a fixture
    same_weights,
    tiny,
    weights,
)

ASKED: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 4, "dropout": 0.1}, "bitfit": {"type": "bitfit"},
}  # fmt: skip


def spec_of(own: dict[str, Any], **changes: Any) -> FinetuneSpec:
    training = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8, "max_length": 16}
    asked = {"model": "m", "dataset": "d", "adapter": own, "training": training}
    return FinetuneSpec.model_validate(asked | changes)


def tune(
    loaded: LoadedModel, rows: TaskData, adapter: str, report: Quiet, resume: Path | None = None
) -> FinetuneResult:
    return finetune(loaded, rows, spec_of(ASKED[adapter]), [], report, resume)


@pytest.mark.parametrize("adapter", ASKED)
def test_only_the_adapter_and_the_head_change(
    adapter: str, mirror: Path, data: TaskData, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    loaded = tiny(mirror, data)
    before, head = weights(loaded), set(loaded.head)
    planned = count_trainable(loaded, [], spec_of(ASKED[adapter]))
    result = tune(loaded, data, adapter, Watched(tmp_path))
    after = unadapted_state(loaded.model)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed >= head
    assert all(is_bias(name) for name in changed - head)
    assert (changed == head) == (adapter == "lora")
    assert result.frozen_verified
    assert (result.trained_layers, result.included) == ([], [])
    assert result.adapter == spec_of(ASKED[adapter]).adapter
    assert result.trainable_parameters == planned
    assert result.prefix is not None
    assert result.prefix.mode == "none"  # the lowest block changes
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss


@pytest.mark.parametrize("adapter", ASKED)
@pytest.mark.parametrize("step", [3, 7])
def test_a_resumed_run_ends_with_the_same_weights(
    adapter: str, step: int, mirror: Path, data: TaskData, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    whole = tiny(mirror, data)
    expected = tune(whole, data, adapter, Watched(tmp_path / "whole"))
    stopping = Watched(tmp_path / "first", stop_at=step)
    with pytest.raises(Stopped):
        tune(tiny(mirror, data), data, adapter, stopping)
    assert stopping.saved is not None
    again = tiny(mirror, data)
    found = tune(again, data, adapter, Watched(tmp_path / "second"), stopping.saved)
    assert same_weights(weights(again), weights(whole))
    assert found.epochs == expected.epochs


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "layers as well": ({"selection": {"policy": "all"}}, "trains in place of layers"),
    "embeddings as well": (
        {"selection": {"policy": "head_only", "include": ["embeddings"]}}, "include does not go",
    ),
    "tracking lora": ({"track_ranking": True}, "track_ranking scores layers"),
    "an adapter of a continued model": ({"continue_from": "ck_1"}, "checkpoints.form to full"),
    "rank for bitfit": ({"adapter": {"type": "bitfit", "rank": 4}}, "means nothing to bitfit"),
    "a rate by scores": ({"training": {"layer_learning_rates": "fisher"}}, "head_only has none"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_with_an_adapter_is_refused(case: str) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(ValidationError, match=re.escape(words)):
        spec_of(ASKED["lora"], **changes)


@pytest.mark.parametrize("adapter", ASKED)
def test_a_stored_request_is_the_same_request(adapter: str) -> None:
    spec = spec_of(ASKED[adapter], training={"warmup_steps": 2})
    assert FinetuneSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_continued_model_may_be_adapted_where_it_is_kept_whole() -> None:
    spec = spec_of(ASKED["lora"], continue_from="ck_1", checkpoints={"form": "full"})
    assert spec.adapter is not None


def test_a_rank_above_the_width_is_refused(mirror: Path, tmp_path: Path) -> None:
    sources = Sources((), cache=tmp_path, offline=True)
    info = inspect_model(local_model(mirror / "models" / TINY), sources)
    assert info.hidden_size is not None
    for rank in (info.hidden_size, info.hidden_size + 1):
        adapter = spec_of({"type": "lora", "rank": rank}).adapter
        assert adapter is not None
        if rank == info.hidden_size:
            check_adapter(adapter, info)
            continue
        with pytest.raises(SelectionMismatch, match="a higher rank than the weights"):
            check_adapter(adapter, info)
