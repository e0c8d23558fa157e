"""The estimated size of a frozen prefix's states, against what a run keeps where the head trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from surgery.models.loading import LoadedModel
from surgery.models.shape import EncoderShape, reads_first_token
from surgery.schemas.enums import Problem
from surgery.schemas.options.training import TrainingSpec
from surgery.training.costs.estimate import Data, memory
from surgery.training.costs.flops import RowLength, TrainedSizes
from tests.support.models.prefixes import data_of, frozen_below, opened, splits_of

WHOLE = 99  # no layer is so high: the head alone trains
CASES: list[tuple[str, Problem, dict[str, Any]]] = [
    *[(kind, Problem.CLASSIFICATION, {}) for kind in ("bert", "albert", "electra", "xlnet", "fnet")],
    *[(kind, Problem.TOKEN_CLASSIFICATION, {}) for kind in ("bert", "modernbert")],
    *[(kind, Problem.MULTIPLE_CHOICE, {}) for kind in ("roberta", "xlnet")],
    *[("modernbert", Problem.REGRESSION, {"classifier_pooling": pooling}) for pooling in ("cls", "mean")],
]  # fmt: skip


def shape_of(loaded: LoadedModel) -> EncoderShape:
    return EncoderShape(loaded.model.config.to_dict(), (100,) * len(loaded.blocks), 1000, 100, 0)


def estimated(shape: EncoderShape, data: Data) -> int | None:
    return memory(shape, 1018, TrainedSizes({}, beside=18), data, TrainingSpec()).cache


@pytest.mark.parametrize(("kind", "problem", "config"), CASES, ids=str)
def test_it_is_what_a_run_of_the_head_alone_keeps(
    kind: str, problem: Problem, config: dict[str, Any]
) -> None:
    loaded = frozen_below(kind, WHOLE, problem, torch.float32)
    for name, value in config.items():
        setattr(loaded.model.config, name, value)
    splits = splits_of(loaded, data_of(problem))
    report = opened(loaded, splits).report
    assert report.mode == "memory"
    encoded = [split.encoded for split in splits.values()]
    rows = [len(each) for each in encoded]
    tokens = sum(int(each.offsets[-1]) for each in encoded) / sum(rows)
    shape = shape_of(loaded)
    known = Data(
        *rows, RowLength(tokens, 0), 16, encoded[0].choices,
        first_only=reads_first_token(shape, problem),
    )  # fmt: skip
    assert shape.hidden is not None
    state = 4 * shape.hidden
    # Each split has a row of zeros beside its states.
    assert estimated(shape, known) == pytest.approx(report.bytes - len(splits) * state, abs=1)


def test_no_tokens_are_needed_where_one_state_a_sequence_is_kept() -> None:
    shape = shape_of(frozen_below("bert", WHOLE))
    assert shape.hidden is not None
    unknown = Data(100, 20, None, 16, choices=2, first_only=True)
    assert estimated(shape, unknown) == 4 * shape.hidden * 2 * 120
    assert estimated(shape, Data(100, 20, None, 16)) is None
