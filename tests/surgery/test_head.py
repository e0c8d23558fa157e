"""Warm-up on cached features against running the encoder every time."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from encoders import tiny
from reference import train_head
from torch import nn

from surgery.architecture import encoder_of, head_parameters
from surgery.data import Encoded, batches_by_length
from surgery.head import WARMUP_BATCH, Warmup
from surgery.progress import Quiet
from surgery.spec import Problem



def warm_up(
    model: nn.Module, parameters: list[nn.Parameter], encoded: Encoded, problem: Problem,
    *, epochs: int, seed: int, report: Quiet,
) -> float | None:  # fmt: skip
    return Warmup(model, parameters, encoded, problem, report).run(epochs=epochs, seed=seed)


KINDS = ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "modernbert mean"]


def build(kind: str, labels: int = 2) -> nn.Module:
    model_type, *pooling = kind.split()
    model = tiny(model_type, labels=labels)
    if pooling:
        model.config.classifier_pooling = pooling[0]
    return model


def rows(count: int, *, labels: int = 2, pad_id: int = 0) -> Encoded:
    """Sentences of 3 to 30 tokens; the label shows in the tokens they are made of."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 31, count)
    classes = generator.integers(0, max(labels, 2), count)
    ids = [
        generator.integers(5 + 15 * label, 20 + 15 * label, length)
        for label, length in zip(classes, lengths, strict=True)
    ]
    return Encoded(
        ids=np.concatenate(ids).astype(np.int32),
        types=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=classes if labels > 1 else classes - 0.5,
        pad_id=pad_id,
    )


@pytest.mark.parametrize("labels", [2, 3, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_features_train_the_same_head(
    kind: str, labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_groups = partial(batches_by_length, tokens=400)
    monkeypatch.setattr("surgery.head.batches_by_length", small_groups)
    model = build(kind, labels)
    twin = deepcopy(model)
    encoded = rows(40, labels=labels, pad_id=model.config.pad_token_id)
    problem = Problem.CLASSIFICATION if labels > 1 else Problem.REGRESSION
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = warm_up(
        model, list(head_parameters(model).values()), encoded, problem,
        epochs=2, seed=5, report=Quiet(),
    )  # fmt: skip
    groups = [encoded.batch(chosen) for chosen in small_groups(encoded.lengths, None)]
    assert len(groups) > 1
    expected = train_head(
        twin, list(head_parameters(twin).values()), groups,
        epochs=2, seed=5, regression=labels == 1,
    )  # fmt: skip
    assert loss == pytest.approx(expected, rel=1e-6)
    head, trained = head_parameters(model), twin.state_dict()
    for name, value in model.state_dict().items():
        if name in head:
            assert not torch.equal(value, before[name])
            torch.testing.assert_close(value, trained[name], rtol=1e-6, atol=1e-9)
        else:
            assert torch.equal(value, before[name])


def test_new_pooler_inside_the_encoder_learns_too() -> None:
    model = build("bert")
    twin = deepcopy(model)
    encoded = rows(24)

    def trained(of: nn.Module) -> list[nn.Parameter]:
        return [*head_parameters(of).values(), *encoder_of(of).pooler.parameters()]

    before = {name: value.clone() for name, value in model.state_dict().items()}
    warm_up(
        model, trained(model), encoded, Problem.CLASSIFICATION, epochs=2, seed=1, report=Quiet()
    )
    groups = [encoded.batch(chosen) for chosen in batches_by_length(encoded.lengths, WARMUP_BATCH)]
    train_head(twin, trained(twin), groups, epochs=2, seed=1)
    for (name, value), expected in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
        changed = not torch.equal(value, before[name])
        assert changed == name.startswith(("classifier.", "bert.pooler."))


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert mean"])
def test_loss_falls_on_separable_data(kind: str) -> None:
    encoded, losses = rows(48), []
    for epochs in (1, 100):
        model = build(kind)
        head = list(head_parameters(model).values())
        losses.append(
            warm_up(model, head, encoded, Problem.CLASSIFICATION, epochs=epochs, seed=0,
                    report=Quiet())
        )  # fmt: skip
    first, last = losses
    assert first is not None
    assert last is not None
    assert last < 0.9 * first


def test_encoder_is_back_in_its_place() -> None:
    model = build("electra")
    encoder, names = encoder_of(model), [name for name, _ in model.named_parameters()]
    head = list(head_parameters(model).values())
    warm_up(model, head, rows(8), Problem.CLASSIFICATION, epochs=1, seed=0, report=Quiet())
    assert encoder_of(model) is encoder
    assert [name for name, _ in model.named_parameters()] == names


def test_no_epochs_change_nothing() -> None:
    model = build("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = list(head_parameters(model).values())
    loss = warm_up(model, head, rows(8), Problem.CLASSIFICATION, epochs=0, seed=0, report=Quiet())
    assert loss is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
