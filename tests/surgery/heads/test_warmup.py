"""Warm-up on cached features against running the encoder every time."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgery.data.tokens.dataset import Batch, Encoded, batches_by_length
from surgery.heads.features import HeadFeatures
from surgery.heads.warmup import warm_up
from surgery.io.reporter import Quiet
from surgery.models.blocks import encoder_of, head_parameters, model_inputs
from surgery.schemas.enums import Problem
from tests.support.collected import one_in
from tests.support.models.encoders import (
    CONFIGS,
    LEFT_PADDED,
    NO_CHOICES,
    SEPARATOR,
    UNMASKED,
    tiny,
)

KINDS = [*CONFIGS, "modernbert mean", "xlnet mean"]
CASES = [
    (kind, problem, labels)
    for kind in KINDS
    for problem, labels in [
        (Problem.CLASSIFICATION, 3),
        (Problem.MULTI_LABEL, 3),
        (Problem.REGRESSION, 1),
        (Problem.MULTIPLE_CHOICE, 1),
        (Problem.TOKEN_CLASSIFICATION, 3),
    ]
    if not (problem is Problem.MULTIPLE_CHOICE and kind in NO_CHOICES)
]


def warmed(
    model: nn.Module,
    parameters: list[nn.Parameter],
    encoded: Encoded,
    problem: Problem = Problem.CLASSIFICATION,
    *,
    epochs: int,
    seed: int,
) -> float | None:
    features = HeadFeatures(model, parameters, encoded, problem, Quiet())
    return warm_up(features, epochs=epochs, seed=seed)


def train_head(
    model: nn.Module,
    parameters: list[nn.Parameter],
    groups: list[Batch],
    problem: Problem = Problem.CLASSIFICATION,
    *,
    epochs: int,
    seed: int,
) -> float:
    """The slow twin, with the encoder run every time: AdamW over pieces of 16 rows of one group."""
    model.eval()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    losses: list[torch.Tensor] = []
    for _ in range(epochs):
        pieces = [
            {name: tensor[rows] for name, tensor in group.items()}
            for group in groups
            for rows in torch.randperm(len(group["labels"]), generator=generator).split(16)
        ]
        losses = []
        for index in torch.randperm(len(pieces), generator=generator).tolist():
            logits = model(**model_inputs(model, pieces[index])).logits
            loss = loss_of_rows(logits, pieces[index]["labels"], problem)
            model.zero_grad()
            loss.mean().backward()
            optimizer.step()
            losses.append(loss.detach())
    return float(torch.cat(losses).mean())


def loss_of_rows(logits: torch.Tensor, labels: torch.Tensor, problem: Problem) -> torch.Tensor:
    if problem is Problem.REGRESSION:
        return 0.5 * (logits[:, 0] - labels) ** 2
    if problem is Problem.MULTI_LABEL:
        present = logits.sigmoid()
        return -torch.where(labels > 0, present, 1 - present).log().sum(1)
    if problem is not Problem.TOKEN_CLASSIFICATION:
        return F.cross_entropy(logits, labels, reduction="none")
    return torch.stack(
        [
            F.cross_entropy(z[y >= 0], y[y >= 0], reduction="sum")
            for z, y in zip(logits, labels, strict=True)
        ]
    )


def build(kind: str, labels: int = 2, problem: Problem = Problem.CLASSIFICATION) -> nn.Module:
    model_type, *variant = [kind] if kind in CONFIGS else kind.split()
    model = tiny(model_type, labels=labels, problem=problem)
    if variant and model_type == "modernbert":
        model.config.classifier_pooling = variant[0]
    if variant and model_type == "xlnet" and problem is not Problem.TOKEN_CLASSIFICATION:
        model.sequence_summary.summary_type = variant[0]
    return model


def rows(count: int, kind: str = "bert", problem: Problem = Problem.CLASSIFICATION) -> Encoded:
    """Sentences of 5 to 30 tokens; the label shows in the tokens they are made of."""
    generator = np.random.default_rng(0)
    choices = 2 if problem is Problem.MULTIPLE_CHOICE else 1
    lengths = generator.integers(5, 31, count * choices)
    classes = generator.integers(0, 2, count)
    tags = [generator.integers(-1, 3, length) for length in lengths]
    ids = [
        generator.integers(
            5 + 15 * classes[place // choices], 20 + 15 * classes[place // choices], n
        )
        for place, n in enumerate(lengths)
    ]
    if kind == "longformer" and choices > 1:
        for sentence in ids:
            sentence[[1, 2, 3]] = SEPARATOR
    tagged = problem is Problem.TOKEN_CLASSIFICATION
    labels = {
        Problem.MULTI_LABEL: np.stack(
            [classes, 1 - classes, np.arange(count) % 3 == 0], axis=1
        ).astype(np.int8),
        Problem.REGRESSION: classes - 0.5,
        Problem.TOKEN_CLASSIFICATION: np.where(
            np.concatenate(tags) < 0, -100, np.concatenate(tags)
        ),
    }
    return Encoded(
        ids=np.concatenate(ids).astype(np.int32),
        types=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=labels.get(problem, classes),
        whole=np.asarray(lengths, dtype=np.int32),
        pad_id=0,
        pad_left=kind.split(maxsplit=1)[0] in LEFT_PADDED,
        pad_to=32 if kind in UNMASKED else None,
        choices=choices,
        tagged=tagged,
    )


@pytest.mark.parametrize(("kind", "problem", "labels"), one_in(3, CASES))
def test_cached_features_train_the_same_head(
    kind: str, problem: Problem, labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_groups = partial(batches_by_length, tokens=400)
    monkeypatch.setattr("surgery.heads.features.batches_by_length", small_groups)
    model = build(kind, labels, problem)
    twin = deepcopy(model)
    encoded = rows(40, kind, problem)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = list(head_parameters(model).values())
    loss = warmed(model, head, encoded, problem, epochs=2, seed=5)
    groups = [encoded.batch(chosen) for chosen in small_groups(encoded.lengths, None)]
    assert len(groups) > 1
    head = list(head_parameters(twin).values())
    expected = train_head(twin, head, groups, problem, epochs=2, seed=5)
    assert loss == pytest.approx(expected, rel=1e-6)
    names, trained = head_parameters(model), twin.state_dict()
    for name, value in model.state_dict().items():
        if name in names:
            assert not torch.equal(value, before[name])
            torch.testing.assert_close(value, trained[name], rtol=1e-6, atol=1e-9)
        else:
            assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("kind", "first"),
    [("bert", True), ("roberta", True), ("longformer", True), ("funnel", True), ("xlnet", False),
     ("modernbert mean", False)],
)  # fmt: skip
def test_only_the_states_the_head_reads_are_kept(kind: str, first: bool) -> None:
    model, encoded = build(kind), rows(8, kind)
    head = list(head_parameters(model).values())
    with HeadFeatures(model, head, encoded, Problem.CLASSIFICATION, Quiet()).replayed() as replay:
        for part in replay.parts:
            states = part.output["last_hidden_state"]
            assert (states.shape[1] == 1) == first
            kept = states.untyped_storage().nbytes() // states.element_size()
            assert kept == states.numel()  # no view that keeps the others in memory


def test_new_pooler_inside_the_encoder_learns_too() -> None:
    model = build("bert")
    twin = deepcopy(model)
    encoded = rows(24)

    def trained(of: nn.Module) -> list[nn.Parameter]:
        return [*head_parameters(of).values(), *encoder_of(of).pooler.parameters()]

    before = {name: value.clone() for name, value in model.state_dict().items()}
    warmed(model, trained(model), encoded, epochs=2, seed=1)
    groups = [encoded.batch(chosen) for chosen in batches_by_length(encoded.lengths, None)]
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
        losses.append(warmed(model, head, encoded, epochs=epochs, seed=0))
    first, last = losses
    assert first is not None
    assert last is not None
    assert last < 0.9 * first


def test_encoder_is_back_in_its_place() -> None:
    model = build("electra")
    encoder, names = encoder_of(model), [name for name, _ in model.named_parameters()]
    head = list(head_parameters(model).values())
    warmed(model, head, rows(8), epochs=1, seed=0)
    assert encoder_of(model) is encoder
    assert [name for name, _ in model.named_parameters()] == names


def test_no_epochs_change_nothing() -> None:
    model = build("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = list(head_parameters(model).values())
    loss = warmed(model, head, rows(8), epochs=0, seed=0)
    assert loss is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
