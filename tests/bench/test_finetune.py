"""The benchmark of fine-tuning: what its ratios, promises and comparison of seeds mean."""

from __future__ import annotations

from typing import Any

import pytest

from bench.finetune.tables import (
    BASE,
    first,
    later,
    seeds_table,
    speedup,
    table_of,
    targets_of,
    whole,
)

Json = dict[str, Any]


def run(arm: str, *epochs: float, seed: int = 0, metric: float = 0.5, size: int = 100) -> Json:
    return {
        "arm": arm, "seed": seed, "epochs": list(epochs), "rows": 60, "metric": metric,
        "peak_bytes": 2**20, "checkpoint_bytes": size, "trainable": 7,
    }  # fmt: skip


RUNS = [
    run(BASE, 10, 10, 10, size=1000), run("peft lora", 8, 8, 8), run("ours last-2", 4, 2, 2),
    run(BASE, 12, 10, 10, size=1000), run("peft lora", 8, 8, 8), run("ours last-2", 4, 2, 2),
]  # fmt: skip


def test_ratios_are_of_medians_over_rounds() -> None:
    assert (first(RUNS[2]), later(RUNS[2]), whole(RUNS[2])) == (4, 2, 8)
    assert speedup(RUNS, "ours last-2", BASE, later) == 5
    assert speedup(RUNS, "ours last-2", BASE, whole) == 31 / 8
    assert speedup(RUNS, "ours last-2", "peft lora", whole) == 3
    assert speedup(RUNS, "ours last-1", BASE, whole) is None
    assert table_of("t", RUNS).row_count == 3


def test_promises_are_judged_for_the_arms_that_ran() -> None:
    found = {target.ratio: target for target in targets_of("t", RUNS)}
    assert set(found) == {
        "trainer all / ours last-2, later epochs", "trainer all / ours last-2, all epochs",
        "peft lora / ours last-2, all epochs", "bytes of two layers' delta / Trainer's checkpoint",
    }  # fmt: skip
    assert all(target.met for target in found.values())
    slow = [*RUNS[:2], run("ours last-2", 40, 20, 20, size=900)]
    assert not any(target.met for target in targets_of("t", slow))


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "yes"), (0.2, "no")])
def test_metrics_are_compared_seed_by_seed(gap: float, verdict: str) -> None:
    noise = [0.01, -0.01, 0.02, -0.02]
    theirs = [run(BASE, 1, 1, seed=s, metric=0.5 + s / 10) for s in range(4)]
    mine = [
        run("ours all", 1, 1, seed=s, metric=0.5 + s / 10 + gap + noise[s]) for s in range(4)
    ]  # fmt: skip
    table = seeds_table("t", [*theirs, *mine])
    assert table.row_count == 1
    assert list(table.columns[-1].cells) == [verdict]
