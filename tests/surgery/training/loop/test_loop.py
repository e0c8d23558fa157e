"""The training loop against its slow twin: steps, losses, evaluations, formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.tokenize import encode
from surgery.errors import TrainingInvalid
from surgery.io.reporter import Quiet
from surgery.models.loading import LoadedModel
from surgery.models.numerics import Numerics
from surgery.models.trainable import freeze_all_but, layers_of_model
from surgery.schemas.jobs.finetune import EpochReport
from surgery.schemas.options.training import TrainingSpec, total_steps, warmup_steps
from surgery.training.loop import best_report
from surgery.training.optimizer import Loss, balanced_weights, rate_factors
from surgery.training.run import stops_early
from tests.support.models.sentence_runs import BASE, TRAINED, distance, fresh, tuned, weights
from tests.support.models.toys import sentences
from tests.support.reference import training as reference_training


@pytest.fixture(scope="module")
def data() -> TaskData:
    return sentences(48)


@pytest.fixture
def loaded(mirror: Path, data: TaskData) -> LoadedModel:
    return fresh(mirror, data)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"batch_size": 4, "gradient_accumulation_steps": 3},
    "cosine": {"schedule": "cosine", "warmup_steps": 3},
    "constant": {"schedule": "constant", "warmup_ratio": 0.5, "weight_decay": 0.3},
    "clipped": {"max_grad_norm": 0.01},
    "smoothed and weighted": {"label_smoothing": 0.2, "class_weights": [3.0, 0.5]},
    "decayed rates": {"layer_learning_rate_decay": 0.5},
    "rates by score": {"layer_learning_rates": "fisher"},
}
SCORES = {"encoder.layer.1": 4.0, "encoder.layer.3": 1.0}


@pytest.mark.parametrize("case", CASES)
def test_the_loop_is_the_obvious_one(
    case: str, mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    training = TrainingSpec(**{**BASE, **CASES[case]})
    theirs, ours = fresh(mirror, data), fresh(mirror, data)
    layers = [layers_of_model(theirs)[index] for index in TRAINED]
    trained = freeze_all_but(theirs, layers, [])
    encoded = encode(data.train, theirs.tokenizer, 24)
    given = training.class_weights
    steps = total_steps(training, len(encoded))
    losses = reference_training.train(
        theirs.model, trained, encoded, training, warmup=warmup_steps(training, steps),
        factors=rate_factors(theirs, trained, layers, training, SCORES),
        weights=torch.tensor(given) if isinstance(given, list) else None,
    )  # fmt: skip
    assert len(losses) == steps
    result = tuned(ours, data, tmp_path, scores=SCORES, **CASES[case])
    assert distance(weights(theirs), weights(ours)) < 1e-8
    half = len(losses) // 2
    assert result.epochs[0].train_loss == pytest.approx(sum(losses[:half]) / half, rel=0.1)


def test_a_steps_loss_is_that_of_all_its_rows(data: TaskData, loaded: LoadedModel) -> None:
    """Batches of unequal size and weight add up to the mean over the step, not of the means."""
    encoded = encode(data.train, loaded.tokenizer, 24)
    rows, weighted = [0, 1, 2, 3, 4], torch.tensor([3.0, 0.5])
    expected = reference_training.step_loss(loaded.model, encoded, rows, 0.1, weighted)
    loss = Loss(data.problem, 0.1, weighted)
    total = sum(
        float(loss.total(loaded.model(**_inputs(batch)).logits, batch["labels"]).detach())
        for batch in (encoded.batch(rows[:1]), encoded.batch(rows[1:]))
    )
    assert total / loss.weight(encoded.labels_of(rows)) == pytest.approx(
        float(expected.detach()), rel=1e-6
    )


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    targets = torch.tensor([0, 0, 0, 1, 2, 2]).numpy()
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert balanced_weights(targets, 4)[:3] == pytest.approx(list(theirs * 3 / 4))
    assert balanced_weights(targets, 4)[3] == 1.0


def evaluation(step: int, value: float | None) -> EpochReport:
    return EpochReport(epoch=step, step=step, train_loss=None, metrics={"accuracy": value})


def test_patience_runs_out_at_evaluations_that_are_not_better() -> None:
    patient = TrainingSpec(early_stopping_patience=2, early_stopping_threshold=0.1)
    values = [0.5, 0.55, 0.7, None, 0.75]
    ends = [
        stops_early([evaluation(*pair) for pair in enumerate(values[:count])], "accuracy", patient)
        for count in range(1, 6)
    ]
    assert ends == [False, False, False, False, True]
    reports = [evaluation(step, value) for step, value in enumerate(values)]
    assert best_report(reports, "accuracy").step == 4
    assert not stops_early(reports, "accuracy", TrainingSpec())


def test_a_run_stops_early(loaded: LoadedModel, data: TaskData, tmp_path: Path) -> None:
    result = tuned(
        loaded, data, tmp_path, epochs=50, learning_rate=1e-12, early_stopping_patience=3
    )
    assert result.stopped_early
    assert len(result.epochs) == 4
    assert result.best == result.epochs[0]


def test_half_precision_stays_near(mirror: Path, data: TaskData, tmp_path: Path) -> None:
    found = [fresh(mirror, data) for _ in range(2)]
    for loaded, precision in zip(found, ["fp32", "bf16"], strict=True):
        loaded.model.float()
        tuned(loaded, data, tmp_path / precision, precision=precision)
    assert 0 < distance(*map(weights, found)) < 0.05


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_format_of_gpus_is_refused_without_one(precision: str) -> None:
    with pytest.raises(TrainingInvalid, match="needs a GPU"):
        Numerics(TrainingSpec(precision=precision), torch.device("cpu"))


def test_the_process_gets_its_settings_back(
    loaded: LoadedModel, data: TaskData, tmp_path: Path
) -> None:
    seen = []

    class Looks(Quiet):
        def step(self, *_: object) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())

    tuned(loaded, data, tmp_path, report=Looks(tmp_path), deterministic=True, epochs=1)
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("options", "pointer", "words"),
    [
        ({"warmup_steps": 10}, "warmup_steps", "the run has 10"),
        ({"metric": "acuracy"}, "metric", "did you mean 'accuracy'"),
        ({"class_weights": [1.0, 2.0, 3.0]}, "class_weights", "2 classes"),
        ({"evaluate_every_steps": 11}, "evaluate_every_steps", "10 steps"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], pointer: str, words: str, loaded: LoadedModel, data: TaskData,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert len(data.train) == 40
    with pytest.raises(TrainingInvalid, match=words) as refused:
        tuned(loaded, data, tmp_path, **options)
    assert refused.value.faults[0].pointer == f"/training/{pointer}"
