"""Frozen prefixes of toys, and beside them what the plain model gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.io.reporter import Quiet, Reporter
from surgery.models.blocks import encoder_of, model_inputs, part_of
from surgery.models.loading import LoadedModel
from surgery.models.trainable import freeze_all_but, frozen_digests, layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.options.training import TrainingSpec
from surgery.training.prefix_cache.cache import Prefix, SplitRows, open_prefix
from surgery.training.prefix_cache.store import Room
from tests.support.models.encoders import NO_CHOICES
from tests.support.models.toys import toy_data, toy_model
from tests.support.reference.encoder_table import StayDouble

LENGTH = 16
ROOM = Room(memory_bytes=1 << 30)  # more than any toy's states take
HEADS = (
    Problem.CLASSIFICATION, Problem.REGRESSION, Problem.TOKEN_CLASSIFICATION,
    Problem.MULTIPLE_CHOICE,
)  # fmt: skip


def has_head(kind: str, problem: Problem) -> bool:
    """Whether transformers has one."""
    return problem is not Problem.MULTIPLE_CHOICE or kind not in NO_CHOICES


@cache
def data_of(problem: Problem) -> TaskData:
    """Forty rows of unlike length and twelve to validate; three choices where there are any."""
    if problem is not Problem.MULTIPLE_CHOICE:
        return toy_data(problem=problem)
    data = toy_data()
    return replace(
        data, train=_choices(data.train), validation=_choices(data.validation), problem=problem,
        labels=["1", "2", "3"],
    )  # fmt: skip


def _choices(table: Dataset) -> Dataset:
    texts = table["text"]
    rows = [[text[:3], text[:9], "a e i"] for text in texts]
    return Dataset.from_dict(
        {"text": texts, "choices": rows, "label": [len(text) % 3 for text in texts]}
    )


def splits_of(loaded: LoadedModel, data: TaskData) -> dict[str, SplitRows]:
    """Both splits of a dataset, tokenised."""
    return {
        name: SplitRows(encode_split(data, name, loaded.tokenizer, LENGTH))  # type: ignore[arg-type]
        for name in ("train", "validation")
    }


def frozen_below(
    kind: str, lowest: int, problem: Problem = Problem.CLASSIFICATION,
    dtype: torch.dtype = torch.float64, include: Sequence[str] = (),
) -> LoadedModel:  # fmt: skip
    """A toy whose layers from ``lowest`` on train, and its head."""
    loaded = toy_model(kind, problem=problem, dtype=dtype)
    freeze_all_but(loaded, layers_of_model(loaded)[lowest:], include)
    return loaded


def opened(
    loaded: LoadedModel, splits: dict[str, SplitRows], *, room: Room = ROOM, passes: float = 1.0,
    report: Reporter | None = None, **training: Any,
) -> Prefix:  # fmt: skip
    """The prefix of a toy, as a run opens it."""
    options = TrainingSpec(max_length=LENGTH, **training)
    digests = frozen_digests(loaded.model)
    with StayDouble():
        return open_prefix(
            loaded, splits, options, report or Quiet(), digests=digests, passes=passes, room=room
        )


def logits_of(loaded: LoadedModel, encoded: Encoded, rows: Sequence[int]) -> Tensor:
    """What the model says of some rows, of each tagged one where they are tagged."""
    batch = encoded.batch(rows)
    with StayDouble():
        logits: Tensor = loaded.model(**model_inputs(loaded.model, batch)).logits
    return logits[batch["labels"] >= 0] if encoded.tagged else logits


def gradients_of(
    loaded: LoadedModel, encoded: Encoded, rows: Sequence[int], seed: int = 3
) -> dict[str, Tensor]:
    """The gradient of a loss of the logits, by parameter, with dropout drawn from ``seed``."""
    torch.manual_seed(seed)
    loaded.model.zero_grad()
    logits = logits_of(loaded, encoded, rows)
    target = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).reshape(logits.shape)
    F.mse_loss(logits, target).backward()
    found = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
    return {"loss": logits.detach(), **found}


class OnlyAbove:
    """The slow twin: a plain model in train mode, whose prefix is told to stay in eval mode.

    What XLNet and Funnel drop of their positions before the first block counts as prefix.
    """

    def __init__(self, loaded: LoadedModel, lowest: int) -> None:
        loaded.model.train()
        embeddings = part_of(loaded.model, "embeddings")
        assert embeddings is not None
        quiet: list[nn.Module] = [embeddings]
        quiet += [block.module for block in loaded.blocks[:lowest]]
        encoder: Any = encoder_of(loaded.model)
        if hasattr(encoder, "encoder") and hasattr(encoder.encoder, "attention_structure"):
            quiet.append(encoder.encoder.attention_structure)
        for module in quiet:
            module.eval()
        if type(encoder).__name__ == "XLNetModel":
            encoder.register_forward_pre_hook(lambda *_: encoder.dropout.eval() and None)
            last = loaded.blocks[-1].module
            last.register_forward_hook(lambda *_: encoder.dropout.train() and None)


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Over tensors of the same names, as a share of each tensor's largest value or of 1e-6."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - value).abs().max() / value.abs().max().clamp_min(1e-6))
        for name, value in expected.items()
    )
