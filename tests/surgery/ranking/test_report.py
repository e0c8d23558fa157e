"""From scores to a result: places, shares, intervals, and how many layers to train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from surgery.gradients.engine import FisherScores, fisher_scores
from surgery.gradients.passes import Objective
from surgery.models.blocks import Unit, find_blocks, units_of
from surgery.ranking.ranking import ranked_result
from surgery.ranking.scores import Scores, average, fisher_units, frobenius_of_halves, from_samples
from surgery.schemas.enums import Aggregate, Problem
from surgery.schemas.jobs.ranking import LayerScore, RankingOptions, RankingResult, Stability
from tests.support.models.encoders import padded_batch, tiny
from tests.support.models.toys import everything_is_finite
from tests.support.reference.ranking import Matrix

SIZES = (12, 12, 48, 12)  # parameters of each block
MEANS = (1.0, 5.0, 9.0, 2.0)


def units() -> list[Unit]:
    return [Unit(f"layer.{index}", index, (), size) for index, size in enumerate(SIZES)]


def matrix(means: tuple[float, ...] = MEANS, samples: int = 60) -> Matrix:
    return np.random.default_rng(7).gamma(4.0, np.array(means) / 4, (samples, len(means)))


def scores_of(values: Matrix, aggregate: Aggregate = Aggregate.TRACE) -> Scores:
    numbers = list(range(len(values)))
    found = FisherScores(numbers, "batched", units(), per_sample=torch.from_numpy(values))
    return fisher_units(found, aggregate)


def result_of(values: Matrix, **given: Any) -> RankingResult:
    options = RankingOptions(**given)
    return ranked_result(scores_of(values, options.aggregate), units(), options, len(values))


def ranked(values: Matrix, **given: Any) -> tuple[list[LayerScore], Stability]:
    result = result_of(values, **given)
    return result.layers, result.stability


def test_layers_come_in_order_of_their_mean() -> None:
    values = matrix()
    layers, stability = ranked(values)
    assert [layer.name for layer in layers] == ["layer.2", "layer.1", "layer.3", "layer.0"]
    assert [layer.rank for layer in layers] == [1, 2, 3, 4]
    assert [layer.index for layer in layers] == [2, 1, 3, 0]
    assert [layer.parameters for layer in layers] == [48, 12, 12, 12]
    assert [layer.score for layer in layers] == pytest.approx(sorted(values.mean(0), reverse=True))
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert everything_is_finite(layers, stability)


def test_intervals_hold_the_score_and_shrink_with_samples() -> None:
    few, many = (ranked(matrix(samples=samples))[0] for samples in (40, 4000))
    for layer in (*few, *many):
        assert layer.ci is not None
        low, high = layer.ci
        assert low < layer.score < high
    widths = [sum(layer.ci[1] - layer.ci[0] for layer in layers) for layers in (few, many)]
    assert widths[1] < widths[0] / 5  # about a tenth: the root of 100


def test_probabilities_of_the_top_k_sum_to_k() -> None:
    layers, _ = ranked(matrix((3.0, 3.1, 3.2, 3.3)))
    for k in range(1, 5):
        shares = [layer.p_top_k[str(k)] for layer in layers if layer.p_top_k]
        assert sum(shares) == pytest.approx(k)
    for layer in layers:
        assert layer.p_top_k is not None
        assert list(layer.p_top_k.values()) == sorted(layer.p_top_k.values())
        assert list(layer.p_top_k) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("means", "k"), [((1.0, 5.0, 9.0, 2.0), 1), ((4.0, 4.0, 5.0, 4.0), 2), ((1, 1, 1, 1), 2)]
)
def test_recommended_k_holds_half(means: tuple[float, ...], k: int) -> None:
    found = result_of(np.tile(means, (10, 1)).astype(float)).recommended_k
    assert (found.k, found.reason) == (k, "smallest k with at least half of the total score")


def test_recommended_k_says_when_the_set_is_not_certain() -> None:
    found = result_of(matrix((3.0, 6.0, 3.0, 3.0))).recommended_k
    assert found.k == 2
    assert "not certain" in found.reason


@pytest.mark.parametrize("aggregate", [Aggregate.TRACE, Aggregate.MEAN])
def test_zero_scores(aggregate: Aggregate) -> None:
    result = result_of(np.zeros((10, 4)), aggregate=aggregate)
    assert [(layer.score, layer.share) for layer in result.layers] == [(0.0, 0.0)] * 4
    assert [layer.index for layer in result.layers] == [0, 1, 2, 3]
    assert result.stability.split_half_kendall_tau is None
    assert result.recommended_k.k == 4
    assert "no layer stands out" in result.recommended_k.reason
    assert everything_is_finite(result.layers, result.stability)


def test_negative_scores_have_no_share() -> None:
    values = np.random.default_rng(0).normal([-1.0, 2.0, 6.0, -3.0], 0.1, (50, 4))
    layers, _ = ranked(values)
    assert [layer.share for layer in layers] == pytest.approx([0.75, 0.25, 0, 0], abs=0.01)
    assert layers[-1].ci is not None
    assert layers[-1].ci[1] < 0


def test_mean_divides_by_parameters() -> None:
    values = matrix()
    layers, _ = ranked(values, aggregate=Aggregate.MEAN)
    by_index = {layer.index: layer for layer in layers}
    for index, size in enumerate(SIZES):
        assert by_index[index].score == pytest.approx(values[:, index].mean() / size)
    assert layers[0].name == "layer.1"  # layer.2 is four times as large


def test_no_bootstrap_no_intervals() -> None:
    layers, stability = ranked(matrix(), bootstrap=0)
    assert all(layer.ci is None and layer.p_top_k is None for layer in layers)
    assert (stability.rank_confidence, stability.ambiguous_k) == (None, None)
    assert stability.split_half_kendall_tau == 1.0


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_hardly_any_samples(samples: int) -> None:
    assert everything_is_finite(*ranked(matrix(samples=samples)))


def test_same_seed_same_result() -> None:
    values = matrix((3.0, 3.1, 3.2, 3.3), samples=30)
    assert ranked(values, seed=4) == ranked(values, seed=4)
    assert ranked(values, seed=4) != ranked(values, seed=5)


def frobenius_of(lengths: list[int]) -> FisherScores:
    model = tiny("bert")
    return fisher_scores(
        model, units_of(model, find_blocks(model)), [padded_batch(lengths, seed=len(lengths))],
        Objective(Problem.CLASSIFICATION), elementwise=True,
    )  # fmt: skip


def test_frobenius_of_halves_has_a_tau_and_no_intervals() -> None:
    first, second = frobenius_of([9, 4, 7]), frobenius_of([5, 8])
    scores = frobenius_of_halves(first, second)
    options = RankingOptions(aggregate=Aggregate.FROBENIUS)
    result = ranked_result(scores, first.units, options, 5)
    assert first.sums is not None
    assert second.sums is not None
    totals = [
        sum(float((first.sums[n] + second.sums[n]).norm()) / 5 for n in unit.members)
        for unit in first.units
    ]
    assert [layer.score for layer in result.layers] == pytest.approx(sorted(totals, reverse=True))
    assert scores.halves is not None
    assert scores.halves[0] == pytest.approx(fisher_units(first, Aggregate.FROBENIUS).values)
    assert scores.halves[1] == pytest.approx(fisher_units(second, Aggregate.FROBENIUS).values)
    assert all(layer.ci is None and layer.p_top_k is None for layer in result.layers)
    stability = result.stability
    assert (stability.rank_confidence, stability.ambiguous_k) == (None, None)
    assert stability.split_half_kendall_tau is not None
    assert everything_is_finite(result.layers, stability)


def test_frobenius_of_one_pass_has_no_tau() -> None:
    found = frobenius_of([6, 5])
    options = RankingOptions(aggregate=Aggregate.FROBENIUS)
    result = ranked_result(fisher_units(found, Aggregate.FROBENIUS), found.units, options, 2)
    assert result.stability.split_half_kendall_tau is None
    assert all(layer.unbiased is None for layer in result.layers)


def test_frobenius_of_few_samples_is_too_large_and_its_unbiased_twin_is_not() -> None:
    """Of pure noise, D is the same everywhere: its norm at N samples is √(1 + 2/N) too large."""
    generator = torch.Generator().manual_seed(0)
    units = [Unit("layer.0", 0, ("p",), 200_000)]
    squares = torch.randn(8, 200_000, generator=generator, dtype=torch.float64).square()
    scores = frobenius_of_halves(
        *(
            FisherScores([side, side + 2, side + 4, side + 6], "batched", units,
                         sums={"p": squares[side::2].sum(0)})
            for side in (0, 1)
        )
    )  # fmt: skip
    truth = 200_000**0.5
    assert scores.values[0] == pytest.approx(truth * (1 + 2 / 8) ** 0.5, rel=0.01)
    assert scores.unbiased is not None
    assert scores.unbiased[0] == pytest.approx(truth, rel=0.01)
    assert scores.halves is not None
    assert [half[0] for half in scores.halves] == pytest.approx([truth * 1.5**0.5] * 2, rel=0.01)


def test_average_of_ratios_and_of_halves() -> None:
    one, two = (from_samples(units(), matrix() * c, np.ones(60)) for c in (1.0, 3.0))
    assert average([one, two]).values == pytest.approx(2 * one.values)
    halves = [
        Scores(units(), np.ones(4) * c, halves=(np.ones(4) * c, np.ones(4)), unbiased=np.ones(4) * c)
        for c in (1.0, 3.0)
    ]  # fmt: skip
    found = average(halves)
    assert found.halves is not None
    assert found.halves[0].tolist() == [2.0] * 4
    assert found.unbiased is not None
    assert found.unbiased.tolist() == [2.0] * 4
