"""Find the layer of a head that gives the logits, without knowing how the head is built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surgery.data.tokens.sequences import IGNORED
from surgery.errors import ModelUnsupported
from surgery.heads.features import Replay
from surgery.heads.linear import LinearTask
from surgery.schemas.enums import Problem


@torch.no_grad()
def last_layer(replay: Replay, parameters: Sequence[nn.Parameter]) -> nn.Linear:
    """The linear layer among the trained ones whose output is the logits.

    Raises ModelUnsupported if there is none.
    """
    trained = {id(parameter) for parameter in parameters}
    outputs: dict[nn.Linear, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda own, _, output: outputs.__setitem__(own, output))
        for module in replay.model.modules()
        if isinstance(module, nn.Linear) and {id(p) for p in module.parameters()} <= trained
    ]
    try:
        logits = replay.logits(replay.parts[0]).flatten()
    finally:
        for hook in hooks:
            hook.remove()
    same = [layer for layer, output in outputs.items() if torch.equal(output.flatten(), logits)]
    if not same:
        raise ModelUnsupported(
            f"the head of {type(replay.model).__name__} does not end in a linear layer, so that it "
            "cannot be fitted to convergence; set head.fit to epochs"
        )
    return same[0]


@torch.no_grad()
def task_of(replay: Replay, layer: nn.Linear) -> LinearTask:
    """What the layer reads of every row, in float64, with the labels."""
    tagged = replay.problem is Problem.TOKEN_CLASSIFICATION
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    counts: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        for part in replay.parts:
            replay.logits(part)
            own = part.inputs["labels"].to(inputs[-1].device)
            labelled = own != IGNORED
            inputs[-1] = inputs[-1][labelled] if tagged else inputs[-1].flatten(0, -2)
            labels.append(own[labelled] if tagged else own)
            counts.append(labelled.sum(1) if tagged else own.new_ones(len(own), dtype=torch.long))
    finally:
        hook.remove()
    count = torch.cat(counts)
    answers = torch.cat(labels)
    if replay.problem in {Problem.REGRESSION, Problem.MULTI_LABEL}:
        answers = answers.double()
    owner = torch.arange(len(count), device=count.device).repeat_interleave(count)
    return LinearTask(torch.cat(inputs).double(), answers, owner, len(count), replay.problem)
