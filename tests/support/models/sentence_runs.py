"""Fine-tunes of the tiny encoder on generated sentences, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from surgery.data.tokens.dataset import TaskData
from surgery.io.reporter import Quiet
from surgery.models.loading import LoadedModel
from surgery.models.trainable import layers_of_model
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.training.loop import finetune
from tests.support.models.checkpoints import loaded_from
from tests.support.models.mirror import TINY

TRAINED = (1, 3)
BASE: dict[str, Any] = {
    "epochs": 2, "learning_rate": 3e-3, "batch_size": 8, "max_length": 24, "seed": 3,
    "head": {"warmup_epochs": 0},
}  # fmt: skip


def fresh(mirror: Path, data: TaskData, *, dropout: bool = False) -> LoadedModel:
    """The same start each time; in float64 and without dropout, runs of other batches agree."""
    loaded = loaded_from(mirror / "models" / TINY, data)
    if not dropout:
        loaded.model.double()
        for module in loaded.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return loaded


def spec_of(include: Sequence[str] = (), **training: Any) -> FinetuneSpec:
    """A request for these runs; the layers are chosen apart from it."""
    selection = {"policy": "top_k", "k": len(TRAINED), "include": list(include)}
    return FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "selection": selection, "training": {**BASE, **training}}
    )


def tuned(
    loaded: LoadedModel,
    data: TaskData,
    out: Path,
    *,
    report: Quiet | None = None,
    resume: Path | None = None,
    scores: Mapping[str, float] | None = None,
    trained: Sequence[int] = TRAINED,
    include: Sequence[str] = (),
    **training: Any,
) -> FinetuneResult:
    """Fine-tune two layers of the four, or others."""
    layers = [layers_of_model(loaded)[index] for index in trained]
    report, spec = report or Quiet(out), spec_of(include, **training)
    return finetune(loaded, data, spec, layers, report, resume, scores)


def weights(loaded: LoadedModel) -> dict[str, Tensor]:
    """A copy of every tensor of a model."""
    return {name: value.clone() for name, value in loaded.model.state_dict().items()}


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference between tensors of the same names."""
    assert first.keys() == second.keys()
    return max(float((value - second[name]).abs().max()) for name, value in first.items())
