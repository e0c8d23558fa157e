"""Sampling ever more rows until the top layers are certain."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.io.reporter import Quiet
from surgery.ranking.ranking import open_scorer, score_until_certain
from surgery.ranking.scorer import Scorer
from surgery.ranking.scores import Scores, from_samples
from surgery.schemas.jobs.ranking import RankingOptions
from tests.support.models.toys import QUICK, by_index, rank, toy_data, toy_model


def test_adaptive_sampling_stops_where_layers_are_far_apart() -> None:
    loaded = toy_model()
    # All gradients but those of the last norm itself come through it, a tenth as large.
    loaded.blocks[-1].module.output.LayerNorm.weight.data.mul_(0.1)
    result = rank(loaded, rows=300, samples=256, adaptive=True)
    whole = rank(loaded, rows=300, samples=256)
    assert whole.layers[0].share > 0.5
    assert result.adaptive is not None
    assert result.adaptive.certain
    [*_, last] = result.adaptive.rounds
    assert last.p_value is not None
    assert last.level == pytest.approx(0.05 / 4)  # of 32, 64, 128 and 256 rows
    assert last.p_value <= last.level
    assert result.adaptive.error_rate == 0.05
    assert result.samples == last.samples < 256
    assert result.layers[0].name == whole.layers[0].name


def test_adaptive_sampling_of_all_rows_is_the_whole_ranking() -> None:
    """Two layers as good as tied: no sample is enough; every row is scored once."""
    loaded, data = toy_model(), toy_data(90)
    options = RankingOptions(samples=80, adaptive=True, **QUICK)
    scorer = open_scorer(loaded, data, options, Quiet())
    seen: list[int] = []

    def tied(rows: list[int]) -> Scores:
        found = Scorer.fisher(scorer, rows=rows)
        seen.extend(rows)
        assert found.per_sample is not None
        middle = found.per_sample[:, :3].mean(1, keepdims=True)
        noise = np.random.default_rng(len(seen)).normal(1, 0.3, (len(rows), 3))
        return from_samples(found.units[:3], middle * noise)

    scorer.fisher = tied  # type: ignore[method-assign,assignment]
    scores, adaptive = score_until_certain(scorer)
    assert not adaptive.certain
    assert [each.samples for each in adaptive.rounds] == [32, 64, 80]
    assert all(each.p_value is not None and each.p_value > 0.05 / 3 for each in adaptive.rounds)
    assert sorted(seen) == list(range(80))
    assert scores.per_sample is not None
    assert len(scores.per_sample) == 80


def test_rounds_that_reach_the_end_equal_one_pass() -> None:
    """With an error rate that no set allows, rounds score what one pass scores."""
    loaded = toy_model()
    expected = rank(loaded, rows=90, samples=80)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgery.ranking.looks.ERROR_RATE", -1.0)
        found = rank(loaded, rows=90, samples=80, adaptive=True)
    assert found.adaptive is not None
    assert [each.samples for each in found.adaptive.rounds] == [32, 64, 80]
    assert found.samples == 80
    assert by_index(found) == pytest.approx(by_index(expected), rel=1e-10)


def test_adaptive_sampling_of_fewer_rows_than_a_round() -> None:
    result = rank(rows=10, samples=20, adaptive=True)
    assert result.adaptive is not None
    assert [each.samples for each in result.adaptive.rounds] == [10]
    assert result.samples == 10


def test_adaptive_sampling_of_a_model_without_gradients() -> None:
    loaded = toy_model()
    for parameter in loaded.head.values():
        parameter.data.zero_()
    result = rank(loaded, samples=40, adaptive=True)
    assert [layer.score for layer in result.layers] == [0.0] * 3
    assert result.recommended_k.k == 3
