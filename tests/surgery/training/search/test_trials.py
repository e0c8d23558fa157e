"""A run of a search is a fine-tune on the fitted rows, in pieces or not, with stored states or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from surgery.data.tokens.cache import encode_split
from surgery.io.reporter import Quiet
from surgery.models.loading import LoadedModel
from surgery.models.numerics import Numerics
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.training import TrainingSpec
from surgery.training.loop import finetune
from surgery.training.search.boundaries import Boundaries
from surgery.training.search.decision.candidates import Candidate
from surgery.training.search.trials import Judged, JudgedRows, Run, Trainer
from tests.support.models.toys import toy_data, toy_model

DATA = toy_data(60)
FIT, JUDGED = list(range(12, 60)), list(range(12))
TRAINING = TrainingSpec(epochs=2, batch_size=8, max_length=16, learning_rate=1e-2, seed=5)
CANDIDATES = (Candidate("single", (1,)), Candidate("pairs", (0, 1)))


def toy() -> LoadedModel:
    """Without dropout, which is drawn anew in each piece; in float64."""
    loaded = toy_model()
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return loaded


def trainer_of(loaded: LoadedModel, room: int | None = None) -> tuple[Trainer, Boundaries]:
    encoded = encode_split(DATA, "train", loaded.tokenizer, TRAINING.max_length)
    numerics = Numerics(TRAINING, torch.device("cpu"))
    boundaries = Boundaries(loaded, encoded, [0, 1], numerics, room)
    boundaries.fill(Quiet())
    rows = JudgedRows(DATA, encoded, FIT, JUDGED, "accuracy")
    return Trainer(loaded, rows, TRAINING, numerics, boundaries), boundaries


def trained(candidate: Candidate, *stops: float, room: int | None = None) -> tuple[Run, Judged]:
    trainer, _ = trainer_of(toy(), room)
    run = Run(candidate, TRAINING.learning_rate, TRAINING.seed)
    for stop in stops:
        judged = trainer.advance(run, round(stop * trainer.steps), lambda: None)
    return run, judged


def close(one: dict[str, torch.Tensor], other: dict[str, Any]) -> bool:
    return all(torch.allclose(tensor, other[name], atol=1e-8) for name, tensor in one.items())


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_a_whole_run_is_a_finetune_on_the_fitted_rows(candidate: Candidate, tmp_path: Path) -> None:
    run, judged = trained(candidate, 1.0)
    loaded = toy()
    data = replace(DATA, train=DATA.train.select(FIT), validation=DATA.train.select(JUDGED))
    spec = FinetuneSpec(
        model="local",
        dataset="local",
        selection=SelectionSpec(policy=Policy.LAYERS, layers=list(candidate.layers)),
        training=TRAINING,
    )
    layers = [layers_of_model(loaded)[place] for place in candidate.layers]
    result = finetune(loaded, data, spec, layers, Quiet(tmp_path))
    assert close(run.weights, dict(loaded.model.named_parameters()))
    assert judged.predictions is not None
    metric = judged.predictions.metrics(["accuracy"])["accuracy"]
    assert metric == result.epochs[-1].metrics["accuracy"]


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_a_run_in_pieces_is_the_same_run(candidate: Candidate) -> None:
    whole, judged = trained(candidate, 1.0)
    pieces, again = trained(candidate, 0.125, 0.25, 0.5, 1.0)
    assert close(whole.weights, pieces.weights)
    assert again.loss == pytest.approx(judged.loss, abs=1e-5)


def test_states_that_do_not_fit_are_computed_again_with_the_same_result() -> None:
    run, judged = trained(CANDIDATES[0], 0.5, 1.0)
    plain, again = trained(CANDIDATES[0], 0.5, 1.0, room=0)
    assert close(run.weights, plain.weights)
    assert again.loss == pytest.approx(judged.loss, abs=1e-5)
    _, stored = trainer_of(toy())
    _, dropped = trainer_of(toy(), 0)
    assert (stored.stores(1), dropped.stores(1)) == (True, False)
    assert stored.bytes > 0
    assert "computed again in each step" in dropped.warnings[0].message


def test_a_run_leaves_the_model_as_it_was() -> None:
    loaded = toy()
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    trainer, _ = trainer_of(loaded)
    run = Run(CANDIDATES[1], TRAINING.learning_rate, 0)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.advance(run, 4, stop)
    assert (run.step, run.weights) == (0, {})
    trainer.advance(run, 4, lambda: None)
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(run.weights["classifier.weight"], before["classifier.weight"])


def test_a_run_that_diverges_has_no_predictions() -> None:
    trainer, _ = trainer_of(toy())
    judged = trainer.advance(Run(CANDIDATES[1], 1e30, 0), 4, lambda: None)
    assert judged.predictions is None
    assert judged.loss == float("inf")
