"""A model trained for one step, its checkpoints, and what transformers alone makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from surgery.checkpoints.card import full_documents
from surgery.checkpoints.checkpoint import write_checkpoint
from surgery.checkpoints.merge import DELTA, RECORD, merge
from surgery.checkpoints.record import CheckpointRecord
from surgery.data.tokens.dataset import Batch
from surgery.data.tokens.tokenize import encode
from surgery.io.folders import MANIFEST
from surgery.models.blocks import model_inputs
from surgery.models.loading import LoadedModel
from surgery.models.source.folder import WEIGHTS_FILE
from surgery.models.trainable import freeze_all_but, layers_of_model
from surgery.schemas.enums import Problem
from surgery.training.optimizer import Loss
from tests.support.models.checkpoints import LABELS, loaded_from, task

AUTO = {
    Problem.CLASSIFICATION: transformers.AutoModelForSequenceClassification,
    Problem.MULTI_LABEL: transformers.AutoModelForSequenceClassification,
    Problem.REGRESSION: transformers.AutoModelForSequenceClassification,
    Problem.MULTIPLE_CHOICE: transformers.AutoModelForMultipleChoice,
    Problem.TOKEN_CLASSIFICATION: transformers.AutoModelForTokenClassification,
}


@dataclass
class Trained:
    """A model after one step, with what its base gives for a batch and what it does."""

    base: Path
    loaded: LoadedModel
    names: list[str]
    batch: Batch
    before: Tensor
    logits: Tensor
    problem: Problem
    dataset: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None

    def write(self, folder: Path, form: Any) -> Path:
        """Its checkpoint in the folder, whole or as a delta; the folder."""
        record = CheckpointRecord(
            layers=[block.name for block in self.loaded.blocks[-1:]], included=[],
            problem=self.problem.value, labels=LABELS[self.problem],
            metrics={"accuracy": 0.5, "pearson": None}, epoch=1.5, step=1,
            dataset=self.dataset, parent=self.parent, baseline={"accuracy": 0.4, "pearson": None},
        )  # fmt: skip
        write_checkpoint(folder, self.loaded, self.names, form, record)
        return folder

    def gives(self, model: nn.Module, batch: Batch | None = None) -> None:
        """The model gives the logits of the trained one."""
        found = logits_of(model, batch or self.batch)
        torch.testing.assert_close(found, self.logits, rtol=0, atol=1e-6)


@torch.no_grad()
def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """What a model gives for a batch."""
    logits: Tensor = model(**model_inputs(model, batch)).logits
    return logits


def trained(base: Path, problem: Problem) -> Trained:
    """The checkpoint in ``base``, its last block and a head trained for one step."""
    data = task(problem)
    loaded = loaded_from(base, data)
    parameters = freeze_all_but(loaded, layers_of_model(loaded)[-1:], [])
    batch = encode(data.train, loaded.tokenizer, 16).batch([0, 1, 2, 3])
    before = logits_of(loaded.model, batch)
    logits = loaded.model(**model_inputs(loaded.model, batch)).logits
    Loss(problem).total(logits, batch["labels"]).backward()
    torch.optim.Adam(parameters.values(), lr=0.05).step()
    after = logits_of(loaded.model, batch)
    assert (after - before).abs().max() > 1e-3
    return Trained(base, loaded, list(parameters), batch, before, after, problem)


def merged(trained: Trained, delta: Path, target: Path) -> Path:
    """The full form of a delta, as the service's archive puts it together."""
    target.mkdir()
    weights = merge(delta, [trained.base / file for file in trained.loaded.source.weights])
    chunks: Iterator[bytes] = weights.chunks()
    (target / WEIGHTS_FILE).write_bytes(b"".join(chunks))
    assert (target / WEIGHTS_FILE).stat().st_size == weights.size
    for file in delta.iterdir():
        if file.name not in {DELTA, MANIFEST}:
            (target / file.name).write_bytes(file.read_bytes())
    for name, text in full_documents(json.loads((delta / RECORD).read_text())).items():
        (target / name).write_text(text)
    return target


def plain(folder: Path, problem: Problem) -> nn.Module:
    """What transformers alone makes of a full folder; nothing missing, nothing left over."""
    model, info = AUTO[problem].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    labels = dict(enumerate(LABELS[problem]))
    if labels:
        assert model.config.id2label == labels
        assert model.config.label2id == {label: index for index, label in labels.items()}
    loaded: nn.Module = model.eval()
    return loaded
