"""Models and batches whose tangent kernels are known from whole Jacobians."""

from __future__ import annotations

from torch import Tensor, nn

from surgery.models.blocks import Unit, find_blocks, units_of
from surgery.ranking.methods import linear_weights
from surgery.schemas.enums import Problem
from tests.support.models.encoders import UNMASKED, padded_batch
from tests.support.reference.methods import output_jacobian, single_rows

Batches = list[dict[str, Tensor]]
LENGTHS = ([11, 5, 7, 8], [9, 9, 6, 6], [5, 12, 5, 6])
CASES = {
    "two classes": (Problem.CLASSIFICATION, 2),
    "five classes": (Problem.CLASSIFICATION, 5),
    "several labels": (Problem.MULTI_LABEL, 3),
    "regression": (Problem.REGRESSION, 1),
    "choices": (Problem.MULTIPLE_CHOICE, 1),
}


def batches_of(kind: str, problem: Problem, labels: int) -> Batches:
    """Twelve samples in three batches of unlike lengths."""
    return [
        padded_batch(lengths, labels=labels, seed=seed, kind=kind, problem=problem)
        for seed, lengths in enumerate(LENGTHS)
    ]


def layers_of(model: nn.Module) -> list[Unit]:
    """The layers of a model, whole."""
    return units_of(model, find_blocks(model))


def jacobians_of(model: nn.Module, batches: Batches, kind: str = "bert") -> tuple[list, list]:
    """Of every sample by itself; and the weights of Linears of each layer."""
    members = [unit.members for unit in linear_weights(model, layers_of(model))]
    names = [name for some in members for name in some]
    masked = kind not in UNMASKED
    rows = single_rows(batches) if masked else rows_with_padding(batches)
    return [output_jacobian(model, row, names, masked=masked) for row in rows], members


def rows_with_padding(batches: Batches) -> Batches:
    """One batch a sample, as long as the batch it was in: an encoder without a mask sees padding."""
    return [
        {name: tensor[row : row + 1] for name, tensor in batch.items()}
        for batch in batches
        for row in range(len(batch["labels"]))
    ]
