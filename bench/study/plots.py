"""The study's figures, as small SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("svg")

from matplotlib import pyplot as plt  # after the choice of the backend

from bench.study.statistics import ByTask, Run

mpl.rcParams["svg.hashsalt"] = "study"  # the same cells, the same file
mpl.rcParams["svg.fonttype"] = "none"  # letters as text: a third of the size
SAVED = {"format": "svg", "bbox_inches": "tight", "metadata": {"Date": None}}


def plot_gains(path: Path, runs: Sequence[Run]) -> None:
    """Plot what each layer alone gains over the head: a panel per task, a line per seed."""
    tasks = list(dict.fromkeys(run.task for run in runs if run.gains))
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.1 * rows), squeeze=False, sharex=True
    )
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for axis, task in zip(axes.flat, tasks, strict=False):
        own = [run for run in runs if run.task == task and run.gains]
        for run in own:
            assert run.gains is not None
            axis.plot(run.gains, marker="o", markersize=3, linewidth=1, alpha=0.6)
            if "all" in run.values:
                gain = run.values["all"] - run.values["head"]
                axis.axhline(gain, color="grey", linewidth=0.8, linestyle="--")
        axis.set_title(f"{task}, {len(own)} seed{'s' * (len(own) > 1)}", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("points over the head", fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("layer trained alone (dashed: all layers)", fontsize=7)
    _save(figure, path)


def plot_correlations(path: Path, found: dict[str, ByTask]) -> None:
    """Plot Spearman of score and gain: a row per method, a dot per task (mean over seeds)."""
    methods = list(found)[::-1]
    tasks = list(dict.fromkeys(task for groups in found.values() for task in groups))
    figure, axis = plt.subplots(figsize=(6.0, 0.32 * len(methods) + 0.8))
    for place, task in enumerate(tasks):
        known = [(row, found[m][task]) for row, m in enumerate(methods) if task in found[m]]
        shift = 0.3 * (place / max(1, len(tasks) - 1) - 0.5)
        x, y = [np.mean(values) for _, values in known], [row + shift for row, _ in known]
        axis.plot(x, y, linestyle="", marker="o", markersize=4, label=task)
    means = [
        np.mean([np.mean(v) for v in found[m].values()]) if found[m] else np.nan for m in methods
    ]
    axis.plot(means, range(len(methods)), linestyle="", marker="|", markersize=14, color="black")
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_yticks(range(len(methods)), methods, fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("Spearman of score and gain (bar: mean over tasks)", fontsize=7)
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, **SAVED)
    plt.close(figure)
