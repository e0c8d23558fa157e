"""A ranking followed through a fine-tune, which must not notice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.data.tokens.dataset import TaskData, choose_rows
from surgery.data.tokens.tokenize import encode
from surgery.heads.converge import fit_head
from surgery.io.reporter import Quiet, Stopped
from surgery.models.loading import LoadedModel
from surgery.models.trainable import layers_of_model
from surgery.ranking.agreement import TRACKED_SAMPLES, RankingTracker
from surgery.ranking.ranking import rank_layers
from surgery.ranking.sample import Sample
from surgery.ranking.scorer import Scorer, ranked_only
from surgery.ranking.uncertainty import kendall_tau, top_k_overlap
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.options.training import TrainingSpec
from surgery.training.loop import finetune
from tests.support.models.checkpoints import loaded_from
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.models.sentence_runs import weights
from tests.support.models.toys import sentences

TRAINING = TrainingSpec(epochs=2, learning_rate=3e-3, batch_size=16, max_length=24, seed=3)
NAMES = [f"encoder.layer.{index}" for index in range(TINY_LAYERS)]


class Watched(Quiet):
    """Notes metrics and states; asks for an end after so many steps."""

    def __init__(self, out: Path, stop_at: int | None = None) -> None:
        super().__init__(out)
        self.metrics: list[dict[str, Any]] = []
        self.phases: list[str] = []
        self.saved: Path | None = None
        self._stop_at = stop_at

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        self.metrics.append({"step": step, "epoch": epoch, **values})

    def step(self, done: int, total: int | None, unit: str) -> None:
        if unit == "steps" and done == self._stop_at:
            raise Stopped(resumable=done != total)

    def state(self, directory: Path, step: int) -> None:
        assert str(step) in directory.name
        self.saved = directory


@pytest.fixture(scope="module")
def data() -> TaskData:
    return sentences(96)


@pytest.fixture
def loaded(mirror: Path, data: TaskData) -> LoadedModel:
    return tiny(mirror, data)


def tiny(mirror: Path, data: TaskData) -> LoadedModel:
    """With a new head, and dropout."""
    return loaded_from(mirror / "models" / TINY, data)


def tune(
    loaded: LoadedModel,
    data: TaskData,
    report: Quiet,
    *,
    track: bool = True,
    resume: Path | None = None,
) -> FinetuneResult:
    spec = FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "selection": {"policy": "layers", "layers": [1, 3]},
         "training": TRAINING, "track_ranking": track}
    )  # fmt: skip
    layers = [layers_of_model(loaded)[index] for index in (1, 3)]
    return finetune(loaded, data, spec, layers, report, resume)


def same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_training_does_not_notice(mirror: Path, data: TaskData, tmp_path: Path) -> None:
    found = []
    for track in (True, False):
        loaded = tiny(mirror, data)
        result = tune(loaded, data, Watched(tmp_path / str(track)), track=track)
        losses = [epoch.train_loss for epoch in result.epochs]
        found.append((weights(loaded), losses, result))
    assert same_weights(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert found[1][2].ranking_at_start is None
    assert all(epoch.ranking is None for epoch in found[1][2].epochs)


def test_the_report_of_a_tracked_run(loaded: LoadedModel, data: TaskData, tmp_path: Path) -> None:
    report = Watched(tmp_path)
    result = tune(loaded, data, report)
    assert result.ranking_at_start is not None
    assert list(result.ranking_at_start) == NAMES
    assert len(result.epochs) == 2
    start = list(result.ranking_at_start.values())
    for epoch in result.epochs:
        assert epoch.ranking is not None
        assert list(epoch.ranking.scores) == NAMES
        now = list(epoch.ranking.scores.values())
        assert epoch.ranking.kendall_tau == kendall_tau(start, now)
        assert epoch.ranking.top_k_overlap == top_k_overlap(
            torch.tensor(start).numpy(), torch.tensor(now).numpy()
        )
        assert now != start
    told = [
        entry["ranking_kendall_tau"] for entry in report.metrics if "ranking_kendall_tau" in entry
    ]
    assert told == [epoch.ranking.kendall_tau for epoch in result.epochs if epoch.ranking]
    assert "rank" in report.phases


def expected_scores(loaded: LoadedModel, data: TaskData) -> dict[str, float]:
    """Of the model as it is, in eval mode, on the rows that the seed chooses."""
    rows = choose_rows(len(data.train), TRACKED_SAMPLES, TRAINING.seed)
    sample = Sample(
        encode(data.train, loaded.tokenizer, TRAINING.max_length, rows), torch.device("cpu")
    )
    scorer = Scorer(loaded, sample, data.problem, RankingOptions(), Quiet())
    found = ranked_only(scorer.fisher())
    return dict(zip(NAMES, found.values.tolist(), strict=True))


def test_scores_are_those_of_the_model_then(mirror: Path, data: TaskData, tmp_path: Path) -> None:
    loaded = tiny(mirror, data)
    result = tune(loaded, data, Watched(tmp_path))
    last = result.epochs[-1].ranking
    assert last is not None
    assert last.scores == pytest.approx(expected_scores(loaded, data), rel=1e-5)


def test_at_the_start_an_untrained_head_is_fitted(
    mirror: Path, loaded: LoadedModel, data: TaskData
) -> None:
    """As a ranking fits it; and then put back, without a gradient left behind."""
    before = weights(loaded)
    loaded.model.train()
    wanted = [parameter.requires_grad for parameter in loaded.model.parameters()]
    tracker = RankingTracker(loaded, data, TRAINING, untrained=True)
    assert same_weights(weights(loaded), before)
    assert loaded.model.training
    assert [parameter.requires_grad for parameter in loaded.model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    twin = tiny(mirror, data)
    rows = choose_rows(len(data.train), TRAINING.head.warmup_samples, TRAINING.seed + 1)
    encoded = encode(data.train, twin.tokenizer, TRAINING.max_length, rows)
    fit_head(twin, encoded, data.problem, seed=TRAINING.seed)
    assert tracker.at_start == pytest.approx(expected_scores(twin, data), rel=1e-5)


def test_a_head_of_the_checkpoints_own_is_scored_as_it_is(
    loaded: LoadedModel, data: TaskData
) -> None:
    loaded.new = []
    tracker = RankingTracker(loaded, data, TRAINING, untrained=False)
    assert tracker.at_start == pytest.approx(expected_scores(loaded, data), rel=1e-6)
    track = tracker.now()
    assert track.scores == tracker.at_start
    assert track.kendall_tau == 1
    assert set(track.top_k_overlap.values()) == {1.0}


def test_the_start_agrees_with_a_ranking_of_the_same_rows(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    """On fewer rows than are asked for, both score all of them."""
    result = tune(tiny(mirror, data), data, Watched(tmp_path))
    options = RankingOptions(max_length=24, seed=3, model_prior=False)
    ranking = rank_layers(tiny(mirror, data), data, options)
    assert result.ranking_at_start == pytest.approx(
        {layer.name: layer.score for layer in ranking.layers}, rel=1e-4
    )


@pytest.mark.parametrize("step", [3, 7])  # in the first epoch, in the second
def test_a_resumed_run_reports_the_same(
    mirror: Path, data: TaskData, tmp_path: Path, step: int
) -> None:
    whole = tiny(mirror, data)
    expected = tune(whole, data, Watched(tmp_path / "whole"))
    stopping = Watched(tmp_path / "first", stop_at=step)
    with pytest.raises(Stopped):
        tune(tiny(mirror, data), data, stopping)
    assert stopping.saved is not None
    loaded = tiny(mirror, data)
    found = tune(loaded, data, Watched(tmp_path / "second"), resume=stopping.saved)
    assert same_weights(weights(loaded), weights(whole))
    assert found.ranking_at_start == expected.ranking_at_start
    assert found.epochs == expected.epochs
