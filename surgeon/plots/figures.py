"""Draws each kind of result into the axes of a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.schemas.jobs.comparison import ComparisonResult
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHOSEN, OTHER = "tab:blue", "lightsteelblue"
MOST_ROWS = 40  # of a ranking or a search; more names would not be legible

Span = tuple[float, float]


def draw_ranking(axes: Axes, result: RankingResult) -> None:
    """A bar for each layer, best first, with its 95 % interval; the recommended ones are dark."""
    layers = result.layers[:MOST_ROWS]
    colours = [CHOSEN if each.rank <= result.recommended_k.k else OTHER for each in layers]
    _bars(axes, [each.name for each in layers], [each.score for each in layers], colours)
    spans = [None if each.ci is None else each.ci for each in layers]
    _whiskers(axes, [each.score for each in layers], spans)
    axes.set_xlabel(f"score by {result.method}")
    axes.set_title(f"recommended: the best {result.recommended_k.k}")


def draw_finetune(axes: Axes, result: FinetuneResult) -> None:
    """The primary metric and the training loss over the epochs; a star marks the best one."""
    metric = result.primary_metric
    points = [(each.epoch, each.metrics.get(metric)) for each in result.epochs]
    known = [(epoch, value) for epoch, value in points if value is not None]
    axes.plot(*zip(*known, strict=True), marker="o", color=CHOSEN, label=metric)
    best = result.best.metrics.get(metric)
    if best is not None:
        axes.plot([result.best.epoch], [best], marker="*", markersize=16, color=CHOSEN)
    _constant(axes, result.baseline.get(metric), vertical=False)
    losses = [
        (each.epoch, each.train_loss) for each in result.epochs if each.train_loss is not None
    ]
    if losses:
        right = axes.twinx()
        right.plot(*zip(*losses, strict=True), linestyle="--", color="tab:gray")
        right.set_ylabel("training loss (dashed)")
    axes.set_xlabel("epoch")
    axes.set_ylabel(metric)
    axes.set_title(f"trained: {', '.join(result.trained_layers) or 'the head alone'}")


def draw_comparison(axes: Axes, result: ComparisonResult) -> None:
    """The mean of each arm with its 95 % interval over the seeds; the reference is dark."""
    arms = [(arm, arm.metric) for arm in result.arms if arm.metric is not None]
    means = [metric.mean for _, metric in arms]
    colours = [CHOSEN if arm.name == result.reference else OTHER for arm, _ in arms]
    _bars(axes, [arm.name for arm, _ in arms], means, colours)
    _whiskers(axes, means, [metric.ci for _, metric in arms])
    _constant(axes, result.baseline.get(result.primary_metric))
    axes.set_xlabel(result.primary_metric)
    axes.set_title(f"beside {result.reference}")


def draw_search(axes: Axes, result: SearchResult) -> None:
    """What each candidate is expected to reach, with its interval; the choice is dark."""
    tried = [(arm, arm.expected) for arm in result.arms if arm.expected is not None][:MOST_ROWS]
    means = [expected.mean for _, expected in tried]
    colours = [CHOSEN if arm.layers == result.layers else OTHER for arm, _ in tried]
    _bars(axes, [arm.name for arm, _ in tried], means, colours)
    _whiskers(axes, means, [(expected.low, expected.high) for _, expected in tried])
    _constant(axes, result.baseline.get(result.primary_metric))
    axes.set_xlabel(f"expected {result.primary_metric}")
    axes.set_title(f"chosen: {', '.join(result.layers)} at {result.learning_rate:g}")


def _constant(axes: Axes, value: float | None, *, vertical: bool = True) -> None:
    """A dotted line where a constant prediction is, if its metric is defined."""
    if value is None:
        return
    line = axes.axvline if vertical else axes.axhline
    line(value, linestyle=":", color="tab:red", label="a constant prediction")
    axes.legend()


def _bars(axes: Axes, names: list[str], values: list[float], colours: list[str]) -> None:
    places = list(range(len(names)))
    axes.barh(places, values, color=colours)
    axes.set_yticks(places, names)
    axes.invert_yaxis()


def _whiskers(axes: Axes, values: list[float], spans: list[Span | None]) -> None:
    """Intervals, where there are any; each reaches to both sides of its value."""
    for place, (value, span) in enumerate(zip(values, spans, strict=True)):
        if span is not None:
            axes.hlines(place, min(span[0], value), max(span[1], value), color="black")
