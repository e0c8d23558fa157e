"""Run a model over held-out rows and measure what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from surgery.architecture import model_inputs
from surgery.data import Encoded, TaskData, batches_by_length, on_device
from surgery.errors import TrainingDiverged
from surgery.likelihood import IGNORED
from surgery.noise import Measured
from surgery.parallel import Share, gather_rows, present_share
from surgery.prefix_replay import Replay, run_whole


def evaluate(
    model: nn.Module, encoded: Encoded, data: TaskData, device: torch.device,
    outputs: Sequence[int] | None = None,
) -> dict[str, float | None]:  # fmt: skip
    """The dataset's metrics of a model on its validation rows; None where one is undefined.

    Takes and raises what ``measured`` does.
    """
    return measured(model, encoded, data, device, outputs).metrics(data.metrics)


def measured(
    model: nn.Module, encoded: Encoded, data: TaskData, device: torch.device,
    outputs: Sequence[int] | None = None, replay: Replay = run_whole,
) -> Measured:  # fmt: skip
    """What a model says of the validation rows, beside what is true.

    ``encoded`` is ``data.validation``, whole. ``outputs`` says which of the model's outputs is each
    of the dataset's labels, where their order is another. Raises TrainingDiverged where the model's
    outputs are not finite.
    """
    logits = predict(model, encoded, device, replay)
    if not np.isfinite(logits).all():
        raise TrainingDiverged("the model's outputs are not finite; lower training.learning_rate")
    if outputs is not None:
        logits = logits[:, list(outputs)]
    groups, earnings = _groups(data.validation, data.metrics)
    offsets = encoded.tag_offsets if encoded.tagged else None
    return Measured(
        logits, encoded.targets, data.problem, tuple(data.labels), offsets, groups, earnings
    )


def _groups(
    table: Dataset, metrics: Sequence[str]
) -> tuple[np.ndarray[Any, Any] | None, dict[str, np.ndarray[Any, Any]]]:
    """The group of each row and what choosing it earns, where a table holds them."""
    if "group" not in table.column_names:
        return None, {}
    earned = [name for name in metrics if name in table.column_names]
    return np.asarray(table["group"]), {name: np.asarray(table[name]) for name in earned}


@torch.no_grad()
def predict(
    model: nn.Module, encoded: Encoded, device: torch.device, replay: Replay = run_whole
) -> np.ndarray[Any, Any]:
    """Logits of every row in order, (N, C), in eval mode; compare them with ``encoded.targets``.

    ``replay`` is what the forward pass of some rows is run in.

    Of tagged rows, those of the tagged tokens, (M, C): row i's are
    ``encoded.tag_offsets[i]`` to ``encoded.tag_offsets[i + 1]``. In a group of processes each runs
    a part and all get the whole.
    """
    training = model.training
    model.eval()
    offsets = encoded.tag_offsets if encoded.tagged else np.arange(len(encoded) + 1)
    places: list[np.ndarray[Any, Any]] = []
    parts: list[Tensor] = []
    groups = list(batches_by_length(encoded.lengths, None))
    share = present_share()
    if len(groups) < share.world:
        share = Share()  # every process does all
    for rows in share.own(groups):
        batch = on_device(encoded.batch(rows), device)
        with replay(rows):
            logits = model(**model_inputs(model, batch)).logits
        parts.append(
            (logits[batch["labels"] != IGNORED] if encoded.tagged else logits).float().cpu()
        )
        places += [np.arange(offsets[row], offsets[row + 1]) for row in rows]
    model.train(training)
    numbers = np.concatenate(places).tolist()
    return gather_rows(torch.cat(parts), numbers, len(encoded.targets), share).numpy()
