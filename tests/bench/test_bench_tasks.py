"""The presets' benchmark: its noise level, its capped mirrors and what it takes up again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from bench.data.capped import held_presets, write_capped
from bench.service.noise import Outcome
from bench.service.tasks import SETTINGS, finished
from surgery.data.presets.tasks import TASKS
from surgery.data.references import materialise, resolve_dataset
from surgery.io.sources import Sources
from tests.support.rows.presets import put, varied


def outcome(name: str, right: np.ndarray, groups: np.ndarray | None = None) -> Outcome:
    labels = np.arange(len(right)) % 2
    return Outcome(TASKS[name], np.eye(2)[np.where(right, labels, 1 - labels)], labels, groups, {})


def test_the_error_of_an_accuracy_is_the_binomial_one() -> None:
    right = np.arange(400) % 5 > 0
    errors = outcome("glue/rte", right).standard_errors(resamples=1000)
    assert errors["accuracy"] == pytest.approx((0.8 * 0.2 / 400) ** 0.5, rel=0.1)


def test_rows_of_one_question_are_drawn_together() -> None:
    """Four answers a question, all right or all wrong: there are 100 observations, not 400."""
    groups = np.repeat(np.arange(100), 4)
    right = groups % 5 > 0
    errors = outcome("super_glue/multirc", right, groups).standard_errors(resamples=1000)
    assert errors["exact_match"] == pytest.approx((0.8 * 0.2 / 100) ** 0.5, rel=0.1)
    assert errors["f1a"] == pytest.approx(0.04, rel=0.15)


def test_a_capped_mirror_has_some_training_rows_and_all_others(tmp_path: Path) -> None:
    rows = varied("super_glue/wic", 40)
    whole = put(tmp_path / "whole", "super_glue/wic", rows, held=10)
    assert held_presets(whole) == ["super_glue/wic"]
    kept = {}
    for seed in (0, 1):
        mirror = tmp_path / f"capped-{seed}"
        write_capped("super_glue/wic", whole, mirror, rows=12, seed=seed)
        capped = Sources((mirror,), tmp_path / "cache", offline=True)
        source = resolve_dataset("super_glue/wic", capped)
        assert materialise(source, capped)[1].rows == {"train": 12, "validation": 10}
        kept[seed] = [json.loads(line) for line in source.files["train"].read_text().splitlines()]
        assert [row for row in rows[10:] if row in kept[seed]] == kept[seed]
    assert kept[0] != kept[1]
    write_capped("super_glue/wic", whole, tmp_path / "all", rows=0, seed=0)
    copied = Sources((tmp_path / "all",), tmp_path / "cache", offline=True)
    assert (
        resolve_dataset("super_glue/wic", copied).fingerprint
        == resolve_dataset("super_glue/wic", whole).fingerprint
    )


def test_only_runs_of_the_same_settings_are_taken_up_again(tmp_path: Path) -> None:
    given = argparse.Namespace(**dict.fromkeys(SETTINGS, 1), json=tmp_path / "cells.jsonl")
    assert finished(given) == {}
    same = {"preset": "glue/rte", "arm": "all", **dict.fromkeys(SETTINGS, 1)}
    other = {**same, "arm": "top_k", "epochs": 2}
    given.json.write_text(f"{json.dumps(same)}\n{json.dumps(other)}\n")
    assert finished(given) == {("glue/rte", "all"): same}
