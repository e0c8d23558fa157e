"""Memory, steps and seconds of a fine-tune that has not run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from surgery.models.shape import EncoderShape
from surgery.schemas.options.training import TrainingSpec
from surgery.training.costs.estimate import Data, caches_prefix, memory, seconds
from surgery.training.costs.flops import RowLength, TrainedSizes, forward_work, suffix_work

SHAPE = EncoderShape(
    {"model_type": "bert", "hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2},
    (1000,) * 4, 5000, 900, 0,
)  # fmt: skip
DATA = Data(train=100, validation=20, row=RowLength(10, 120), longest=16)
LAST = TrainedSizes({3: 1000}, beside=18)
FIRST = TrainedSizes({0: 1000}, beside=18)


def training(**given: Any) -> TrainingSpec:
    return TrainingSpec(**{"batch_size": 10, "head": {"warmup_epochs": 0}, **given})


def test_memory_is_that_of_what_trains() -> None:
    found = memory(SHAPE, 5018, LAST, DATA, training())
    assert (found.weights, found.gradients, found.moments) == (4 * 5018, 4 * 1018, 8 * 1018)
    assert found.cache == 4 * 8 * 10 * 120
    assert found.activations is not None
    parts = (found.weights, found.gradients, found.moments, found.activations, found.cache)
    assert found.peak == sum(parts)


def test_lower_layers_longer_rows_and_larger_batches_keep_more() -> None:
    def kept(trained: TrainedSizes, data: Data = DATA, size: int = 256) -> int:
        # Batches larger than those of an evaluation, whose memory would hide the differences.
        given = TrainingSpec(batch_size=size)
        found = memory(SHAPE, 5018, trained, replace(data, train=9999), given).activations
        assert found is not None
        return found

    assert kept(FIRST) > kept(LAST)
    assert kept(LAST, replace(DATA, longest=64)) > kept(LAST)
    assert kept(LAST, size=1024) > kept(LAST)
    assert kept(LAST, replace(DATA, choices=4)) > kept(LAST)
    assert kept(TrainedSizes({0: 1000, 3: 1000}, 18)) > kept(FIRST)


def test_nothing_is_guessed() -> None:
    unknown = replace(DATA, row=None)
    other = replace(SHAPE, config={**SHAPE.config, "model_type": "funnel"})
    assert memory(other, 5018, LAST, DATA, training()).peak is None
    assert memory(SHAPE, 5018, LAST, unknown, training()).cache is None
    assert memory(SHAPE, 5018, FIRST, unknown, training()).cache == 0
    assert seconds(SHAPE, LAST, unknown, training(), 1e6) is None
    assert seconds(SHAPE, LAST, replace(DATA, train=None), training(), 1e6) is None


def test_the_cache_spares_the_prefix_in_every_epoch() -> None:
    rate = 1e3
    row = RowLength(10, 120)
    plain = seconds(SHAPE, LAST, DATA, training(prefix_cache="off"), rate)
    cached = seconds(SHAPE, LAST, DATA, training(), rate)
    assert plain is not None
    assert cached is not None
    prefix = forward_work(SHAPE, row, 0, 3) * 120 / rate
    assert plain.later_epoch == plain.first_epoch
    assert cached.later_epoch == pytest.approx(plain.later_epoch - prefix)
    assert cached.first_epoch == pytest.approx(plain.first_epoch)
    assert cached.total == pytest.approx(cached.first_epoch + 2 * cached.later_epoch)


def test_without_a_frozen_prefix_every_epoch_costs_the_same() -> None:
    found = seconds(SHAPE, FIRST, DATA, training(epochs=2), 1e3)
    assert found is not None
    row = RowLength(10, 120)
    step = suffix_work(SHAPE, row, FIRST) * 100 + forward_work(SHAPE, row) * 20
    assert found.first_epoch == found.later_epoch == pytest.approx(step / 1e3)


def test_a_head_that_is_fitted_first_costs_a_pass_over_its_rows() -> None:
    drawn = seconds(SHAPE, FIRST, DATA, training(epochs=2), 1e3)
    some = seconds(SHAPE, FIRST, DATA, training(epochs=2, head={"warmup_samples": 30}), 1e3)
    every = seconds(SHAPE, FIRST, DATA, training(epochs=2, head={}), 1e3)  # of 100 rows
    assert drawn is not None
    assert some is not None
    assert every is not None
    row = forward_work(SHAPE, RowLength(10, 120)) / 1e3
    assert some.first_epoch == pytest.approx(drawn.first_epoch + 30 * row)
    assert every.total == pytest.approx(drawn.total + 100 * row)
    assert some.later_epoch == drawn.later_epoch


def test_max_steps_cuts_a_run_short() -> None:
    half = training(max_steps=5)
    assert not caches_prefix(SHAPE, LAST, half, 100)  # over before it has seen each row once
    assert caches_prefix(SHAPE, LAST, training(max_steps=5, prefix_cache="memory"), 100)
    found = seconds(SHAPE, LAST, DATA, half, 1e3)
    whole = seconds(SHAPE, LAST, DATA, training(epochs=1, prefix_cache="off"), 1e3)
    assert found is not None
    assert whole is not None
    evaluation = forward_work(SHAPE, RowLength(10, 120)) * 20 / 1e3
    assert found.later_epoch is None
    assert found.total == pytest.approx((whole.total - evaluation) / 2 + evaluation)


def test_evaluations_inside_an_epoch_are_counted() -> None:
    often = seconds(SHAPE, FIRST, DATA, training(epochs=1, evaluate_every_steps=2), 1e3)
    once = seconds(SHAPE, FIRST, DATA, training(epochs=1), 1e3)
    assert often is not None
    assert once is not None
    evaluation = forward_work(SHAPE, RowLength(10, 120)) * 20 / 1e3
    assert often.total - once.total == pytest.approx(4 * evaluation)
