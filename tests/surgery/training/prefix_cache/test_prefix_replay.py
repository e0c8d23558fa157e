"""Stored states in place of the frozen prefix: predictions, losses and gradients stay the same."""

from __future__ import annotations

import pytest
import torch

from surgery.schemas.enums import Problem
from tests.support.models.encoders import CONFIGS
from tests.support.models.prefixes import (
    HEADS,
    OnlyAbove,
    data_of,
    frozen_below,
    gradients_of,
    has_head,
    largest_difference,
    logits_of,
    opened,
    splits_of,
)

ROWS = [7, 0, 31, 12, 25]
CASES = [
    (kind, problem)
    for kind in CONFIGS
    if kind not in {"albert", "albert groups", "funnel"}
    for problem in HEADS
    if has_head(kind, problem)
]
CLOSE = 1e-9


# The quick run has each encoder and each problem at every depth, and each pair of those at one.
DEPTHS = [
    pytest.param(
        *case, lowest, id=f"{'-'.join(case)}-{lowest}",
        marks=() if (turn + place) % 3 + 1 == lowest else pytest.mark.slow,
    )
    for turn, kind in enumerate(dict(CASES))
    for place, case in enumerate(case for case in CASES if case[0] == kind)
    for lowest in (1, 2, 3)
]  # fmt: skip


def test_the_quick_run_has_every_pair() -> None:
    quick = [each.values for each in DEPTHS if not each.marks]
    assert [(kind, problem) for kind, problem, _ in quick] == CASES
    pairs = {(name, lowest) for kind, problem, lowest in quick for name in (kind, problem)}
    assert pairs == {(name, lowest) for case in CASES for name in case for lowest in (1, 2, 3)}


@pytest.mark.parametrize(("kind", "problem", "lowest"), DEPTHS)
def test_predictions_are_those_of_the_whole_model(kind: str, problem: Problem, lowest: int) -> None:
    loaded = frozen_below(kind, lowest, problem)
    splits = splits_of(loaded, data_of(problem))
    prefix = opened(loaded, splits)
    assert (prefix.report.mode, prefix.report.layers) == ("memory", lowest)
    for name, split in splits.items():
        rows = list(range(len(split.encoded)))[::-1]
        plain = logits_of(loaded, split.encoded, rows)
        with prefix.installed():
            with prefix.replay(name, rows):
                replayed = logits_of(loaded, split.encoded, rows)
            whole = logits_of(loaded, split.encoded, rows)
        torch.testing.assert_close(replayed, plain, rtol=CLOSE, atol=CLOSE)
        assert torch.equal(whole, plain)  # nothing is replayed unasked


@pytest.mark.parametrize(("kind", "problem"), CASES)
def test_training_steps_are_those_of_the_whole_model(kind: str, problem: Problem) -> None:
    """With dropout above the prefix, drawn from the same seed; the cache only spares time."""
    loaded = frozen_below(kind, 1, problem)
    encoded = splits_of(loaded, data_of(problem))["train"].encoded
    found = []
    for cache in ("memory", "off"):
        prefix = opened(loaded, splits_of(loaded, data_of(problem)), prefix_cache=cache)
        loaded.model.train()
        with prefix.installed(), prefix.replay("train", ROWS):
            found.append(gradients_of(loaded, encoded, ROWS))
    twin = frozen_below(kind, 1, problem)
    OnlyAbove(twin, 1)
    expected = gradients_of(twin, encoded, ROWS)
    for gradients in found:
        assert largest_difference(gradients, expected) < CLOSE
