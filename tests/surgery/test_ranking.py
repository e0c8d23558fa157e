"""From a matrix of per-sample scores to a ranking with intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoders import padded_batch, tiny
from scipy.stats import kendalltau
from torch import nn

from surgery import ranking
from surgery.architecture import Block, find_blocks
from surgery.fisher import FisherScores, fisher_scores
from surgery.ranking import bootstrap_means, recommend_k, split_half_tau, summarise
from surgery.results import LayerScore, Stability
from surgery.spec import Aggregate, Problem, RankingOptions

SIZES = (12, 12, 48, 12)  # parameters of each block
MEANS = (1.0, 5.0, 9.0, 2.0)


def blocks() -> list[Block]:
    return [
        Block(f"layer.{index}", index, nn.Linear(size, 1, bias=False))
        for index, size in enumerate(SIZES)
    ]


def matrix(means: tuple[float, ...] = MEANS, samples: int = 60) -> np.ndarray:
    return np.random.default_rng(7).gamma(4.0, np.array(means) / 4, (samples, len(means)))


def scores_of(values: np.ndarray) -> FisherScores:
    return FisherScores(len(values), "batched", {}, per_sample=torch.from_numpy(values))


def ranked(values: np.ndarray, **options: object) -> tuple[list[LayerScore], Stability]:
    return summarise(scores_of(values), blocks(), RankingOptions(**options))


def everything_is_finite(layers: list[LayerScore], stability: Stability) -> bool:
    numbers = [number for layer in layers for number in (layer.score, layer.share)]
    numbers += [bound for layer in layers for bound in layer.ci or ()]
    numbers += [share for layer in layers for share in (layer.p_top_k or {}).values()]
    numbers += [stability.split_half_kendall_tau or 0.0, stability.rank_confidence or 0.0]
    return bool(np.isfinite(numbers).all())


def test_layers_come_in_order_of_their_mean() -> None:
    values = matrix()
    layers, stability = ranked(values)
    assert [layer.name for layer in layers] == ["layer.2", "layer.1", "layer.3", "layer.0"]
    assert [layer.rank for layer in layers] == [1, 2, 3, 4]
    assert [layer.parameters for layer in layers] == [48, 12, 12, 12]
    assert [layer.score for layer in layers] == pytest.approx(sorted(values.mean(0), reverse=True))
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert everything_is_finite(layers, stability)


@pytest.mark.parametrize("cells", [1, 700, 20_000_000])
def test_bootstrap_equals_the_loop(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "BOOTSTRAP_CELLS", cells)
    values = matrix(samples=60)
    generator = np.random.default_rng(3)
    expected = []
    for _ in range(25):
        counts = generator.multinomial(60, np.full(60, 1 / 60))
        drawn = [values[row] for row, count in enumerate(counts) for _ in range(count)]
        expected.append(np.mean(drawn, axis=0))
    np.testing.assert_allclose(bootstrap_means(values, 25, 3), expected, rtol=1e-12)


def test_intervals_hold_the_score_and_shrink_with_samples() -> None:
    few, many = (ranked(matrix(samples=samples))[0] for samples in (40, 4000))
    for layer in (*few, *many):
        assert layer.ci is not None
        low, high = layer.ci
        assert low < layer.score < high
    widths = [sum(layer.ci[1] - layer.ci[0] for layer in layers) for layers in (few, many)]
    assert widths[1] < widths[0] / 5  # about a tenth: the root of 100


def test_interval_covers_the_true_mean() -> None:
    """95 % nominal: of 200 draws of 80 samples, most intervals hold the mean."""
    held = 0
    for seed in range(200):
        values = np.random.default_rng(seed).gamma(4.0, 0.25, (80, 1))
        low, high = np.percentile(bootstrap_means(values, 300, seed), [2.5, 97.5])
        held += low < 1 < high
    assert 175 <= held <= 200


def test_probabilities_of_the_top_k_sum_to_k() -> None:
    layers, _ = ranked(matrix((3.0, 3.1, 3.2, 3.3)))
    for k in range(1, 5):
        shares = [layer.p_top_k[str(k)] for layer in layers if layer.p_top_k]
        assert sum(shares) == pytest.approx(k)
    for layer in layers:
        assert layer.p_top_k is not None
        assert list(layer.p_top_k.values()) == sorted(layer.p_top_k.values())
        assert list(layer.p_top_k) == ["1", "2", "3", "4"]


def test_ambiguous_k() -> None:
    """Two layers of equal means: which of them is second is open, that both are among three not."""
    _, clear = ranked(matrix())
    _, tied = ranked(matrix((1.0, 5.0, 50.0, 5.0)))
    assert clear.ambiguous_k == []
    assert clear.rank_confidence == pytest.approx(1, abs=0.01)
    assert tied.ambiguous_k == [2]
    assert tied.rank_confidence is not None
    assert tied.rank_confidence < ranking.CERTAIN


def test_tau_between_halves() -> None:
    assert split_half_tau(matrix(samples=400), 0) == 1.0
    values = matrix((3.0, 3.0, 3.0, 3.0), samples=20)
    order = np.random.default_rng(4).permutation(20)
    first, second = values[order[:10]].mean(0), values[order[10:]].mean(0)
    assert split_half_tau(values, 4) == pytest.approx(kendalltau(first, second).statistic)
    assert split_half_tau(np.ones((6, 4)), 0) is None  # all alike: no order to agree on
    assert split_half_tau(matrix(samples=1), 0) is None


@pytest.mark.parametrize(
    ("means", "k"), [((1.0, 5.0, 9.0, 2.0), 1), ((4.0, 4.0, 5.0, 4.0), 2), ((1, 1, 1, 1), 2)]
)
def test_recommended_k_holds_half(means: tuple[float, ...], k: int) -> None:
    layers, _ = ranked(np.tile(means, (10, 1)))
    assert recommend_k(layers).k == k


@pytest.mark.parametrize("aggregate", [Aggregate.TRACE, Aggregate.MEAN])
def test_zero_scores(aggregate: Aggregate) -> None:
    layers, stability = ranked(np.zeros((10, 4)), aggregate=aggregate)
    assert [(layer.score, layer.share) for layer in layers] == [(0.0, 0.0)] * 4
    assert [layer.index for layer in layers] == [0, 1, 2, 3]
    assert stability.split_half_kendall_tau is None
    assert recommend_k(layers).k == 4
    assert "zero" in recommend_k(layers).reason
    assert everything_is_finite(layers, stability)


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


@pytest.mark.parametrize("samples", [1, 2])
def test_hardly_any_samples(samples: int) -> None:
    assert everything_is_finite(*ranked(matrix(samples=samples)))


def test_same_seed_same_result() -> None:
    values = matrix((3.0, 3.1, 3.2, 3.3), samples=30)
    assert ranked(values, seed=4) == ranked(values, seed=4)
    assert ranked(values, seed=4) != ranked(values, seed=5)


def test_frobenius_has_a_tau_and_no_intervals() -> None:
    model = tiny("bert")
    found = find_blocks(model)
    batches = [padded_batch([9, 4, 7]), padded_batch([5, 8, 6], seed=1)]
    scores = fisher_scores(model, found, batches, Problem.CLASSIFICATION, elementwise=True)
    options = RankingOptions(aggregate=Aggregate.FROBENIUS)
    layers, stability = summarise(scores, found, options)
    totals = [0.0] * len(found)
    for name, values in scores.diagonal.items():
        totals[scores.owner[name]] += float(values.norm())
    assert [layer.score for layer in layers] == pytest.approx(sorted(totals, reverse=True))
    assert all(layer.ci is None and layer.p_top_k is None for layer in layers)
    assert (stability.rank_confidence, stability.ambiguous_k) == (None, None)
    assert stability.split_half_kendall_tau is not None
    assert everything_is_finite(layers, stability)


def test_frobenius_of_one_sample_has_no_tau() -> None:
    model = tiny("bert")
    found, batch = find_blocks(model), padded_batch([6])
    scores = fisher_scores(model, found, [batch], Problem.CLASSIFICATION, elementwise=True)
    _, stability = summarise(scores, found, RankingOptions(aggregate=Aggregate.FROBENIUS))
    assert stability.split_half_kendall_tau is None
