"""What the arms of a comparison reach on the presets of ``also_evaluate``. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.comparison import Run
from surgery.comparison_results import ComparisonResult, SeedMean


def add_other_presets(table: ComparisonResult, runs: Sequence[Run]) -> None:
    """Fill in each arm's ``also``: means over its runs, each at its best evaluation.

    A run that has no value for a metric counts for nothing there, as with the primary metric.
    """
    for arm in table.arms:
        own = [run.result.best.also for run in runs if run.arm == arm.name and run.result]
        arm.also = {
            preset: {name: _mean(own, preset, name) for name in metrics}
            for preset, metrics in (own[0] if own else {}).items()
        }


def _mean(
    own: Sequence[dict[str, dict[str, float | None]]], preset: str, name: str
) -> SeedMean | None:
    values = [also[preset][name] for also in own]
    return SeedMean.of([value for value in values if value is not None])
