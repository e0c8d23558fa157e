"""Figures of results, and what is said where matplotlib is missing."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from surgeon import plots
from surgeon.client.jobs import JobHandle
from surgeon.plots import figure_of
from surgery.schemas.jobs.comparison import ComparisonResult
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult


def bars(result: Any) -> dict[str, float]:
    """The bars of a figure that is really drawn, by their labels."""
    figure = figure_of(result)
    figure.savefig(io.BytesIO(), format="png")
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    return {name: bar.get_width() for name, bar in zip(labels, axes.patches, strict=True)}


def layer(rank: int, score: float, ci: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "rank": rank, "name": f"encoder.layer.{3 - rank}", "index": 3 - rank, "score": score,
        "share": 0.5, "ci": ci, "p_top_k": None, "parameters": 10,
    }  # fmt: skip


def test_a_ranking_has_a_bar_for_each_layer() -> None:
    stability = {"split_half_kendall_tau": None, "rank_confidence": None, "ambiguous_k": None}
    result = RankingResult.model_validate({
        "method": "fisher", "aggregate": "trace", "fisher": "empirical", "samples": 8,
        "path": "batched", "layers": [layer(1, 0.4, (0.3, 0.5)), layer(2, 0.2, None)],
        "stability": stability, "recommended_k": {"k": 1, "reason": "why"}, "head": None,
        "warnings": [], "seconds": {},
    })  # fmt: skip
    assert bars(result) == {"encoder.layer.2": 0.4, "encoder.layer.1": 0.2}


def test_a_fine_tune_has_its_metric_and_its_loss_over_the_epochs() -> None:
    epochs = [
        {"epoch": number, "step": number, "train_loss": loss, "metrics": {"accuracy": value}}
        for number, (loss, value) in enumerate([(0.7, 0.5), (0.5, None), (0.4, 0.75)], 1)
    ]
    result = FinetuneResult.model_validate({
        "trained_layers": ["encoder.layer.1"], "included": [], "trainable_parameters": 10,
        "total_parameters": 20, "primary_metric": "accuracy", "best": epochs[2], "epochs": epochs,
        "best_checkpoint": "ck_1", "frozen_verified": True, "seconds": {}, "warnings": [],
        "peak_memory_bytes": 1, "samples_per_second": 1.0,
    })  # fmt: skip
    left, right = figure_of(result).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[0.5, 0.75], [0.75]]
    assert list(right.lines[0].get_ydata()) == [0.7, 0.5, 0.4]


def test_a_comparison_leaves_out_arms_without_a_metric() -> None:
    arms = [
        {"name": name, "trained_layers": None, "metric": metric, "difference": None, "verdict": None,
         "trainable_parameters": None, "seconds": {}, "samples_per_second": None,
         "peak_memory_bytes": None, "checkpoint_bytes": None, "runs": []}
        for name, metric in (
            ("all", {"mean": 0.8, "ci": (0.7, 0.9), "seeds": 2}),
            ("broken", None),
            ("last", {"mean": 0.6, "ci": None, "seeds": 1}),
        )
    ]  # fmt: skip
    result = ComparisonResult.model_validate({
        "primary_metric": "accuracy", "reference": "all", "noise": None, "arms": arms,
        "failures": [], "runs": 3, "seconds": 1.0, "warnings": [],
    })  # fmt: skip
    assert bars(result) == {"all": 0.8, "last": 0.6}


def test_a_search_leaves_out_what_was_not_tried() -> None:
    arms = [
        {"rank": rank, "name": str(rank), "family": "single", "layers": [f"l{rank}"],
         "trainable_parameters": 1, "status": "finalist", "learning_rate": 1e-3,
         "expected": expected, "p_best": 0.5, "trials": []}
        for rank, expected in ((1, {"mean": 0.9, "low": 0.8, "high": 1.0}), (2, None))
    ]  # fmt: skip
    cost = {"seconds": 1, "budget_seconds": 2, "singles_seconds": 3, "share": 0.3}
    result = SearchResult.model_validate({
        "primary_metric": "accuracy", "layers": ["l1"], "learning_rate": 1e-3, "winner": None,
        "stopped": "budget", "gain_over_all": None, "gain_over_fisher": None, "arms": arms,
        "model_layers": [], "scores": {}, "train_rows": 8, "held_out_rows": 2, "looks": 1,
        "confidence": 0.95, "cost": cost, "seconds": {}, "warnings": [],
    })  # fmt: skip
    assert bars(result) == {"1": 0.9}


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plots._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install layer-surgeon\[plot\]"):
        figure_of(RankingResult.model_construct())


def test_a_job_that_failed_shows_why_in_a_notebook() -> None:
    error = {"detail": "it <broke>", "code": "internal"}
    document = {"id": "rk_1", "kind": "ranking", "status": "failed", "phase": None, "error": error}
    shown = JobHandle[RankingResult](None, document)._repr_html_()  # type: ignore[arg-type]
    assert "rk_1, failed" in shown
    assert "it &lt;broke&gt; (internal)" in shown
