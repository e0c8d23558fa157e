"""AdamW over the trained tensors only, each layer at its own rate, and the schedule of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import nn
from transformers import get_scheduler

from surgery.architecture import block_of_parameter
from surgery.errors import Fault, TrainingInvalid
from surgery.loading import LoadedModel
from surgery.training_checks import warmup_steps
from surgery.training_spec import TrainingSpec
from surgery.units import Unit, groups_of


def rate_factors(
    loaded: LoadedModel,
    trained: Mapping[str, nn.Parameter],
    units: Sequence[Unit],
    training: TrainingSpec,
    scores: Mapping[str, float] | None,
) -> dict[str, float]:
    """Trained tensor → its share of the learning rate.

    With ``layer_learning_rate_decay`` δ a tensor of block l of L learns at δ^(L−1−l), and the
    embeddings at δ^L (Howard and Ruder, ACL 2018; Clark et al., ICLR 2020). With
    ``layer_learning_rates`` fisher it learns at its unit's score over the highest of the trained
    ones (as Lee et al., ICLR 2023, do with relative gradient norms). ``units`` are those
    that train, ``scores`` are by their names. Raises TrainingInvalid where no trained unit has a
    score above zero.
    """
    if training.layer_learning_rates == "fisher":
        return _by_score(trained, units, scores or {})
    decay = training.layer_learning_rate_decay
    if decay is None:
        return dict.fromkeys(trained, 1.0)
    owner = block_of_parameter(loaded.model, loaded.blocks)
    top = len(loaded.blocks)
    groups = groups_of(loaded.model, loaded.blocks)
    below = {name for group in groups if group.name == "embeddings" for name in group.members}
    layers_above = {name: top - 1 - block for name, block in owner.items()} | dict.fromkeys(
        below, top
    )
    return {name: decay ** layers_above.get(name, 0) for name in trained}


def _by_score(
    trained: Mapping[str, nn.Parameter], units: Sequence[Unit], scores: Mapping[str, float]
) -> dict[str, float]:
    own = {
        member: scores[unit.name]
        for unit in units
        if unit.name in scores
        for member in unit.members
    }
    highest = max(own.values(), default=0.0)
    if highest <= 0:
        raise TrainingInvalid(
            "no trained layer has a score above zero, so layer_learning_rates has nothing to go by",
            [Fault("leave it out", pointer="/training/layer_learning_rates")],
        )
    return {name: max(0.0, own.get(name, highest)) / highest for name in trained}


def make_optimizer(
    trained: Mapping[str, nn.Parameter], training: TrainingSpec, factors: Mapping[str, float]
) -> torch.optim.AdamW:
    """AdamW; biases and norms are not decayed. Tensors of one rate and decay are one group."""

    def kind(name: str) -> tuple[float, bool]:
        return factors[name], trained[name].dim() > 1

    groups = [
        {
            "params": [trained[name] for name in names],
            "lr": training.learning_rate * factor,
            "weight_decay": training.weight_decay if decayed else 0.0,
        }
        for (factor, decayed), names in groupby(sorted(trained, key=kind, reverse=True), kind)
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, training: TrainingSpec, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The rate over the run's optimizer steps: a rise, then the asked decay."""
    schedule = get_scheduler(
        "constant_with_warmup" if training.schedule == "constant" else training.schedule,
        optimizer,
        num_warmup_steps=warmup_steps(training, steps),
        num_training_steps=steps,
    )
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    return schedule
