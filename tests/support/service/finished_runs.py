"""Results of fine-tunes, rankings and searches that nobody ran, for what is made of them."""

from __future__ import annotations

from surgery.evaluation.comparison import FinetuneRun
from surgery.schemas import JobWarning
from surgery.schemas.enums import Aggregate, Policy
from surgery.schemas.jobs.comparison import ArmPlan
from surgery.schemas.jobs.finetune import EpochReport, FinetuneResult
from surgery.schemas.jobs.ranking import (
    LayerScore,
    MethodScores,
    MethodTable,
    RankingResult,
    RecommendedK,
    Stability,
)
from surgery.schemas.jobs.search import (
    Interval,
    SearchArm,
    SearchCost,
    SearchedLayer,
    SearchResult,
    SearchTrial,
)

LOST = {"code": "worker_lost", "detail": "gone"}
METRIC = "accuracy"
STABILITY = Stability(split_half_kendall_tau=None, rank_confidence=None, ambiguous_k=[])


def finetune_result(
    metric: float | None, *, noise: float | None = None, seconds: float = 2.0, parameters: int = 10
) -> FinetuneResult:
    """What a run that reached this metric says."""
    best = EpochReport(epoch=1, step=4, train_loss=0.5, metrics={METRIC: metric}, noise=noise)
    return FinetuneResult(
        trained_layers=["layer.0"], included=[], trainable_parameters=parameters,
        total_parameters=100, primary_metric=METRIC, best=best, epochs=[best],
        best_checkpoint="ck_1", frozen_verified=True, peak_memory_bytes=1000,
        samples_per_second=50.0, seconds={"train": seconds / 2, "total": seconds}, warnings=[],
    )  # fmt: skip


def ranking_result(scores: dict[str, dict[str, float]], main: str = "fisher") -> RankingResult:
    """A ranking by one method with the tables of all, from scores by method and layer."""
    order = {m: sorted(own, key=lambda name: -own[name]) for m, own in scores.items()}
    places = {name: index for index, name in enumerate(scores[main])}
    return RankingResult(
        method="all", aggregate=Aggregate.TRACE, fisher="empirical", samples=8, path="batched",
        layers=[
            LayerScore(
                rank=rank, name=name, index=places[name], score=scores[main][name], share=0.1,
                ci=None, p_top_k=None, parameters=5,
            )
            for rank, name in enumerate(order[main], 1)
        ],
        stability=STABILITY, recommended_k=RecommendedK(k=1, reason="first"), head=None,
        methods=MethodTable(
            methods=[
                MethodScores(method=m, order=order[m], scores=own, stability=STABILITY)
                for m, own in scores.items()
            ],
            kendall_tau={},
        ),
        warnings=[], seconds={},
    )  # fmt: skip


def plan(
    name: str,
    policy: Policy = Policy.LAST_K,
    layer: str | None = None,
    learning_rate: float | None = None,
) -> ArmPlan:
    return ArmPlan(
        name=name, policy=policy, layers=[layer] if layer else None, single=bool(layer),
        learning_rate=learning_rate,
    )  # fmt: skip


def run(arm: str, seed: int, metric: float | None, noise: float | None = None) -> FinetuneRun:
    return FinetuneRun(
        arm, seed, f"ft_{arm}{seed}", "succeeded",
        finetune_result(metric, noise=noise, seconds=2.0 + seed), checkpoint_bytes=100 + seed,
    )  # fmt: skip


def lost(arm: str, seed: int) -> FinetuneRun:
    return FinetuneRun(arm, seed, f"ft_{arm}{seed}", "failed", error=LOST)


def grid(metrics: dict[str, list[float]], noise: float | None = None) -> list[FinetuneRun]:
    return [
        run(arm, seed, metric, noise)
        for arm, own in metrics.items()
        for seed, metric in enumerate(own)
    ]


def costing(runs: list[FinetuneRun], seconds: dict[str, float]) -> list[FinetuneRun]:
    """Set how long the runs of each arm took, and give each run a checkpoint of its own."""
    for own in runs:
        assert own.result is not None
        own.result.seconds = {"train": seconds[own.arm] / 2, "total": seconds[own.arm]}
        own.result.best_checkpoint = f"ck_{own.arm}{own.seed}"
    return runs


def search_result(layers: list[str], rate: float = 3e-4, *, model: int = 4) -> SearchResult:
    """What a search says that found these layers, as the best of two candidates."""
    found = Interval(mean=0.8, low=0.7, high=0.9)
    trial = SearchTrial(
        learning_rate=rate, seed=0, steps=20, epochs=0.5, metric=0.75, loss=0.4, seconds=2.5
    )
    tried = SearchArm(
        rank=1, name="+".join(name[-1] for name in layers), family="pairs", layers=layers,
        trainable_parameters=100, status="finalist", learning_rate=rate, expected=found,
        p_best=0.9, trials=[trial, trial],
    )  # fmt: skip
    untried = SearchArm(
        rank=2, name="0", family="single", layers=["encoder.layer.0"], trainable_parameters=50,
        status="not_tried", learning_rate=None, expected=None, p_best=0.0, trials=[],
    )  # fmt: skip
    cost = SearchCost(seconds=5.0, budget_seconds=6.0, singles_seconds=20.0, share=0.25)
    return SearchResult(
        primary_metric=METRIC, layers=layers, learning_rate=rate, winner=None, stopped="budget",
        gain_over_all=found, gain_over_fisher=None, arms=[tried, untried],
        model_layers=[
            SearchedLayer(name=f"encoder.layer.{place}", index=place, parameters=10)
            for place in range(model)
        ],
        scores={}, train_rows=80, held_out_rows=20, looks=2, confidence=0.95, cost=cost,
        seconds={}, warnings=[JobWarning(code="few_rows", message="few rows")],
    )  # fmt: skip
