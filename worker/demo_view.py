"""What the demo shows: progress, the table of arms, what it means, the same by hand."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

Json = dict[str, Any]
FISHER, TANGENT = "Fisher's top 2", "tangent's top 2"
FIRST, LAST, ALL = "first 2", "last 2", "all"
CHANCE = 0.5  # two classes of equal size
FAR_FROM_NOISE = 2.0  # standard errors between two arms that are said to differ


@dataclass(frozen=True)
class Arm:
    """One fine-tune of the comparison, finished."""

    name: str
    layers: tuple[int, ...]
    metric: float
    parameters: int
    seconds: float
    checkpoint: str
    bytes: int


def arms_progress(
    console: Console, names: Sequence[str]
) -> tuple[Progress, Callable[[str, Mapping[str, Any]], None]]:
    """A bar an arm, and what to call with an arm's name and every state of its job."""
    bars = Progress(
        TextColumn("{task.fields[arm]:<15}"), TextColumn("{task.description:<9}"), BarColumn(24),
        TaskProgressColumn(), TextColumn("{task.fields[steps]}"), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip
    tasks = {
        name: bars.add_task("queued", total=100, arm=name, steps="", start=False) for name in names
    }

    def seen(name: str, job: Mapping[str, Any]) -> None:
        task, progress = tasks[name], job["progress"] or {}
        if job["status"] == "running":
            bars.start_task(task)
        if progress.get("unit") == "steps":
            bars.update(
                task, completed=100 * progress["step"] / progress["total_steps"],
                steps=f"{progress['step']}/{progress['total_steps']}",
            )  # fmt: skip
        bars.update(
            task, description=(job["phase"] if not job["terminal"] else "") or job["status"]
        )
        if job["terminal"]:
            if job["status"] == "succeeded":  # the last steps may have passed between two polls
                bars.update(task, completed=100)
            bars.stop_task(task)

    return bars, seen


def arms_table(arms: Sequence[Arm], metric: str) -> Table:
    """What each selection trained, reached and cost."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    for name in (metric, "trainable", "seconds", "checkpoint"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        table.add_row(
            arm.name, _shown_layers(arm.layers), f"{arm.metric:.3f}", f"{arm.parameters:,}",
            f"{arm.seconds:.1f}", f"{arm.bytes / 1e6:.1f} MB",
        )  # fmt: skip
    return table


def _shown_layers(layers: Sequence[int]) -> str:
    return " ".join(map(str, sorted(layers)))


def best_arm(arms: Sequence[Arm]) -> Arm:
    """The highest metric; of equals the one that trains the fewest parameters."""
    return max(arms, key=lambda arm: (arm.metric, -arm.parameters))


def conclusions(arms: Sequence[Arm], rows: int) -> list[str]:
    """What the numbers of the arms say, measured on so many validation rows."""
    by_name = {arm.name: arm for arm in arms}
    fisher, first, last = by_name[FISHER], by_name[FIRST], by_name[LAST]
    error = math.sqrt(CHANCE * (1 - CHANCE) / rows)  # largest at one half
    return [
        f"Chance is {CHANCE:.3f}; on {rows} validation rows one standard error is {error:.3f}.",
        _fisher_against_first(fisher, first, rows) + _same_layers(fisher, last),
        _tangent_against_fisher(by_name[TANGENT], fisher, rows)
        + _same_layers(by_name[TANGENT], first),
        _small_against_all(best_arm([fisher, by_name[TANGENT], first, last]), by_name[ALL], rows),
        _why_compare(fisher, first, rows),
    ]


def _fisher_against_first(fisher: Arm, first: Arm, rows: int) -> str:
    if fisher.layers == first.layers:
        return f"Fisher's top 2 are the first 2 layers here ({fisher.metric:.3f})."
    difference = fisher.metric - first.metric
    numbers = f"{fisher.metric:.3f} against {first.metric:.3f}"
    if _is_noise(fisher.metric, first.metric, rows):
        return f"Fisher's top 2 and the first 2 layers do not differ beyond noise: {numbers}."
    verb = "beat" if difference > 0 else "lost to"
    near = ", and stayed near chance" if _is_noise(fisher.metric, CHANCE, rows) else ""
    return f"Fisher's top 2 {verb} the first 2 layers by {abs(difference):.3f}: {numbers}{near}."


def _tangent_against_fisher(tangent: Arm, fisher: Arm, rows: int) -> str:
    numbers = f"{tangent.metric:.3f} against {fisher.metric:.3f}"
    start = "The tangent-kernel score, which asks what a layer could learn, "
    if tangent.layers == fisher.layers:
        return f"{start}prefers the same two layers."
    if _is_noise(tangent.metric, fisher.metric, rows):
        return f"{start}prefers two others, no better or worse than noise: {numbers}."
    verb = "better" if tangent.metric > fisher.metric else "worse"
    return f"{start}prefers two others, and they do {verb}: {numbers}."


def _same_layers(chosen: Arm, plain: Arm) -> str:
    return f" They are the {plain.name} layers: those two arms are one run." * (
        chosen.layers == plain.layers
    )


def _small_against_all(best: Arm, everything: Arm, rows: int) -> str:
    share = best.parameters / everything.parameters
    numbers = f"{best.metric:.3f} against {everything.metric:.3f}"
    start = f"The best two layers ({best.name}), {share:.0%} of the parameters that `all` trains,"
    if _is_noise(best.metric, CHANCE, rows) and _is_noise(everything.metric, CHANCE, rows):
        return (
            f"{start} and `all` both stayed near chance: {numbers}. Train longer, or on more rows."
        )
    if _is_noise(everything.metric, CHANCE, rows):
        return (
            f"{start} beat all layers, which stayed near chance: {numbers}. The settings are the "
            "same for all arms; a lower learning rate may suit `all` better."
        )
    if _is_noise(best.metric, everything.metric, rows):
        return f"{start} do as well as all layers: {numbers}."
    verb = "beat" if best.metric > everything.metric else "fall short of"
    return f"{start} {verb} all layers: {numbers}."


def _why_compare(fisher: Arm, first: Arm, rows: int) -> str:
    reason = (
        "The Fisher score measures how large a layer's gradients are, not whether they can learn "
        "the task"
    )
    if _is_noise(fisher.metric, first.metric, rows):
        return f"{reason}; only a comparison shows whether a selection matters."
    if fisher.metric < first.metric:
        less = "do not" if _is_noise(fisher.metric, CHANCE, rows) else "learn less"
        return f"{reason}; here the first layers learn it and the preferred ones {less}: compare."
    return f"{reason}; here it chose well, on another task it may not: compare."


def _is_noise(one: float, other: float, rows: int) -> bool:
    """Whether two accuracies on so many rows differ by less than two standard errors."""
    # One success and one failure more: an accuracy of 1 is not known without error.
    smoothed = [(value * rows + 1) / (rows + 2) for value in (one, other)]
    error = math.sqrt(sum(value * (1 - value) / rows for value in smoothed))
    return abs(one - other) <= FAR_FROM_NOISE * error


def by_hand(url: str, files: tuple[Path, Path], jobs: Sequence[Json], checkpoint: str) -> list[str]:
    """The curl lines that do the same: upload, rank, poll, tune, download."""
    train, validation = (shlex.quote(str(path)) for path in files)
    ranking, tuned = jobs
    return [
        f"curl -F train=@{train} -F validation=@{validation} {url}/v1/datasets",
        _post(f"{url}/v1/rankings", ranking, "model", "dataset", "samples", "method"),
        f"curl {url}/v1/jobs/{ranking['id']}",
        _post(f"{url}/v1/finetunes", tuned, "model", "dataset", "selection", "training"),
        f"curl {url}/v1/jobs/{tuned['id']}",
        f"curl -o best.tar '{url}/v1/checkpoints/{checkpoint}/archive?form=full'",
    ]


def _post(url: str, job: Json, *fields: str) -> str:
    body = {name: _stated(job["spec"][name]) for name in fields}
    return f"curl {url} --json {shlex.quote(json.dumps(body))}"


def _stated(value: Any) -> Any:
    """Without the fields that say nothing."""
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if inner not in (None, [], {})}
