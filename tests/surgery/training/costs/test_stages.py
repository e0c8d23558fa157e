"""The costs of layer schedules and of trying learning rates, against sums over steps and draws."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

import pytest

from surgery.models.shape import EncoderShape
from surgery.schemas.options.training import TrainingSpec
from surgery.training.costs.estimate import Data, memory, seconds
from surgery.training.costs.flops import RowLength, TrainedSizes, forward_work, suffix_work

SHAPE = EncoderShape(
    {"model_type": "bert", "hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2},
    (1000,) * 4, 5000, 900, 0,
)  # fmt: skip
ROW = RowLength(10, 120)
DATA = Data(train=100, validation=20, row=ROW, longest=16)
HEAD = 18
SELECTED = {1: 1000, 2: 1000, 3: 1000}
TRAINED = TrainedSizes(SELECTED, beside=HEAD)
RATE = 1e6


def training(**given: Any) -> TrainingSpec:
    return TrainingSpec(**{"batch_size": 10, "head": {"warmup_epochs": 0}, **given})


def only(*layers: int) -> TrainedSizes:
    return replace(TRAINED, blocks={index: SELECTED[index] for index in layers})


def total(spec: TrainingSpec, trained: TrainedSizes = TRAINED) -> float:
    found = seconds(SHAPE, trained, DATA, spec, RATE)
    assert found is not None
    return found.total * RATE


def epoch(sizes: TrainedSizes, *, cached: bool, fills: bool = False) -> float:
    """An epoch in which these layers train, with its evaluation, worked out by hand."""
    prefix = forward_work(SHAPE, ROW, 0, sizes.lowest(SHAPE))
    step = suffix_work(SHAPE, ROW, sizes) + (0 if cached else prefix)
    measure = forward_work(SHAPE, ROW, sizes.lowest(SHAPE) if cached else 0)
    return step * 100 + measure * 20 + (prefix * 120 if fills else 0)


def test_each_unfreezing_costs_what_trains_then_and_fills_its_own_prefix() -> None:
    gradual = {"type": "gradual", "every_epochs": 1}
    stages = [only(3), only(2, 3), TRAINED, TRAINED]
    expected = sum(epoch(s, cached=True, fills=place < 3) for place, s in enumerate(stages))
    assert total(training(epochs=4, layer_schedule=gradual)) == pytest.approx(expected)
    expected = sum(epoch(s, cached=False) for s in stages)
    off = training(epochs=4, layer_schedule=gradual, prefix_cache="off")
    assert total(off) == pytest.approx(expected)
    found = seconds(SHAPE, TRAINED, DATA, off, RATE)
    assert found is not None
    assert found.first_epoch * RATE == pytest.approx(epoch(only(3), cached=False))
    assert found.later_epoch == pytest.approx((found.total - found.first_epoch) / 3)


def test_stages_shorter_than_an_epoch_cache_nothing() -> None:
    """Half an epoch each for the first two of the layers; then all of them, for two epochs."""
    gradual = {"type": "gradual", "every_steps": 5}
    halves = [epoch(s, cached=False) / 2 for s in (only(3), only(2, 3))]
    rest = 2 * epoch(TRAINED, cached=True) + forward_work(SHAPE, ROW, 0, 1) * 120
    spec = training(epochs=3, layer_schedule=gradual)
    assert total(spec) == pytest.approx(sum(halves) + rest)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_drawn_layers_cost_the_mean_over_all_draws(count: int) -> None:
    lisa = {"type": "lisa", "layers": count, "interval": 3}
    prefix = forward_work(SHAPE, ROW, 0, 1)
    draws = [only(*each) for each in combinations(SELECTED, count)]
    # From the prefix up to the lowest drawn layer there is a forward pass alone.
    step = fmean(
        suffix_work(SHAPE, ROW, own) + forward_work(SHAPE, ROW, 1, own.lowest(SHAPE))
        for own in draws
    )
    measure = forward_work(SHAPE, ROW, 1) * 20
    expected = prefix * 120 + 3 * (step * 100 + measure)
    assert total(training(epochs=3, layer_schedule=lisa)) == pytest.approx(expected)
    assert total(training(epochs=3, layer_schedule=lisa)) <= total(training(epochs=3))


def test_memory_is_that_of_the_most_that_trains_at_once() -> None:
    plain = memory(SHAPE, 5018, TRAINED, DATA, training())
    lisa = memory(
        SHAPE, 5018, TRAINED, DATA,
        training(layer_schedule={"type": "lisa", "layers": 1, "interval": 3}),
    )  # fmt: skip
    assert (lisa.gradients, lisa.moments) == (4 * (1000 + HEAD), 8 * (1000 + HEAD))
    assert lisa.cache == plain.cache
    gradual = {"type": "gradual", "every_epochs": 1}
    short = memory(SHAPE, 5018, TRAINED, DATA, training(epochs=2, layer_schedule=gradual))
    assert short.gradients == 4 * (2000 + HEAD)
    whole = memory(SHAPE, 5018, TRAINED, DATA, training(epochs=3, layer_schedule=gradual))
    assert (whole.gradients, whole.activations) == (plain.gradients, plain.activations)
    unknown = replace(DATA, train=None)
    assert memory(SHAPE, 5018, TRAINED, unknown, training(layer_schedule=gradual)).gradients == (
        plain.gradients
    )


def test_embeddings_are_one_more_layer_to_unfreeze() -> None:
    """Up to that the layers below are a prefix, although everything trains in the end."""
    trained = replace(TRAINED, below=True)
    gradual = {"type": "gradual", "every_epochs": 1}
    spec = training(epochs=4, layer_schedule=gradual)
    stages = [only(3), only(2, 3), TRAINED]
    expected = sum(epoch(sizes, cached=True, fills=True) for sizes in stages)
    expected += epoch(trained, cached=False)
    assert total(spec, trained) == pytest.approx(expected)
    assert memory(SHAPE, 5018, trained, DATA, spec).cache == 4 * 8 * 10 * 120


def test_each_rate_costs_a_run_on_four_fifths_and_one_measurement() -> None:
    """The prefix is computed once for all of them and the run."""
    step, prefix = suffix_work(SHAPE, ROW, TRAINED), forward_work(SHAPE, ROW, 0, 1)
    measure = forward_work(SHAPE, ROW, 1)
    spec = training(epochs=3, learning_rates=[1e-4, 3e-4, 1e-3])
    found, plain = seconds(SHAPE, TRAINED, DATA, spec, RATE), total(training(epochs=3))
    assert found is not None
    assert found.rates is not None
    assert found.rates * RATE == pytest.approx(3 * (3 * step * 80 + measure * 20))
    assert found.total * RATE == pytest.approx(found.rates * RATE + plain)
    off = training(epochs=3, learning_rates=[1e-4, 1e-3], prefix_cache="off")
    found = seconds(SHAPE, TRAINED, DATA, off, RATE)
    assert found is not None
    assert found.rates is not None
    each = 3 * (step + prefix) * 80 + (measure + prefix) * 20
    assert found.rates * RATE == pytest.approx(2 * each)
    single = seconds(SHAPE, TRAINED, DATA, training(epochs=3), RATE)
    assert single is not None
    assert single.rates is None
