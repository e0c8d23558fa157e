"""What the demo prints about its runs: a table of arms, conclusions, and equivalent commands."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from surgeon.terminal.tables import wide_table

Json = dict[str, Any]
FISHER, TANGENT = "Fisher's top 2", "tangent's top 2"
FIRST, LAST, ALL = "first 2", "last 2", "all"
CHANCE = 0.5  # two classes of equal size
FAR_FROM_NOISE = 2.0  # standard errors between two arms that count as different
ONE_RUN = (
    "Each arm is one run. On this task another seed can turn an arm that learns into one that "
    "stays at chance, so this compares runs, not ways to train: `surgeon compare` with several "
    "seeds does that."
)


@dataclass(frozen=True)
class Arm:
    """A finished fine-tune of the demo."""

    name: str
    layers: tuple[int, ...]
    learning_rate: float
    metric: float
    parameters: int
    seconds: float
    checkpoint: str
    bytes: int


def arms_table(arms: Sequence[Arm], metric: str) -> Table:
    """One row for each arm: its layers, its metric and its costs."""
    table = wide_table()
    table.add_column("arm", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    for name in ("rate", metric, "trainable", "seconds", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        table.add_row(
            arm.name,
            " ".join(map(str, sorted(arm.layers))),
            f"{arm.learning_rate:g}",
            f"{arm.metric:.3f}",
            f"{arm.parameters / 1e6:.2f}M",
            f"{arm.seconds:.1f}",
            f"{arm.bytes / 1e6:.1f}",
        )
    return table


def best_arm(arms: Sequence[Arm]) -> Arm:
    """The arm with the highest metric; of equal ones, that with the fewest parameters."""
    return max(arms, key=lambda arm: (arm.metric, -arm.parameters))


def conclusions(arms: Sequence[Arm], rows: int) -> list[str]:
    """What the arms' metrics show and what they do not; ``rows`` is the number of validation rows.

    An arm is a single run, so the conclusions are about these runs only.
    """
    by_name = {arm.name: arm for arm in arms}
    fisher, tangent = by_name[FISHER], by_name[TANGENT]
    first, last = by_name[FIRST], by_name[LAST]
    error = math.sqrt(CHANCE * (1 - CHANCE) / rows)  # largest at one half
    measure = (
        f"Chance is {CHANCE:.3f}. On {rows} validation rows an accuracy has a standard error of "
        f"{error:.3f} at most; a difference within two standard errors of its own is called noise."
    )
    return [
        measure,
        _against(fisher, first, rows) + _same_run(fisher, last),
        _against(tangent, fisher, rows) + _same_run(tangent, first) + _same_run(tangent, last),
        _against_all(best_arm([fisher, tangent, first, last]), by_name[ALL], rows),
        ONE_RUN,
    ]


def _against(one: Arm, other: Arm, rows: int) -> str:
    """Whether and how two arms with the same learning rate differ."""
    if one.layers == other.layers:
        return f"{_begin(one)} and {other.name} are the same layers: one run, {one.metric:.3f}."
    numbers = f"{one.metric:.3f} against {other.metric:.3f}{_near_chance(one, other, rows)}"
    if _is_noise(one.metric, other.metric, rows):
        return f"{_begin(one)} and {other.name} do not differ beyond noise: {numbers}."
    verb = "better" if one.metric > other.metric else "worse"
    return f"{_begin(one)} did {verb} than {other.name}: {numbers}."


def _same_run(chosen: Arm, plain: Arm) -> str:
    return f" They are the {plain.name} layers: one run." * (chosen.layers == plain.layers)


def _against_all(best: Arm, everything: Arm, rows: int) -> str:
    """The best arm of two layers against all layers, which train at another learning rate."""
    share = best.parameters / everything.parameters
    few = f"best two layers ({best.name}, {share:.0%} of the parameters) at {best.learning_rate:g}"
    whole = f"all layers at {everything.learning_rate:g}"
    numbers = f"{best.metric:.3f} against {everything.metric:.3f}"
    if _is_noise(best.metric, everything.metric, rows):
        verdict = f"Between the {few} and {whole} there is no difference beyond noise: {numbers}"
    else:
        verb = "better" if best.metric > everything.metric else "worse"
        verdict = f"The {few} did {verb} than {whole}: {numbers}"
    return (
        f"{verdict}{_near_chance(best, everything, rows)}. The two layers are the best of several "
        "by these very rows, and neither rate was searched."
    )


def _near_chance(one: Arm, other: Arm, rows: int) -> str:
    """Which of the two arms did not get better than chance."""
    near = [arm for arm in (one, other) if _is_noise(arm.metric, CHANCE, rows)]
    if len(near) == 2:
        return ", both near chance: they may have learned nothing"
    return f"; {near[0].name} stayed near chance" if near else ""


def _begin(arm: Arm) -> str:
    return arm.name[0].upper() + arm.name[1:]


def _is_noise(one: float, other: float, rows: int) -> bool:
    """Whether two accuracies on so many rows differ by less than two standard errors.

    All arms are measured on the same rows. If they tend to be right on the same ones, paired
    differences would have smaller errors. So this test is cautious: it finds noise too often.
    """
    # One success and one failure are added, because an accuracy of 1 is not free of error either.
    smoothed = [(value * rows + 1) / (rows + 2) for value in (one, other)]
    error = math.sqrt(sum(value * (1 - value) / rows for value in smoothed))
    return abs(one - other) <= FAR_FROM_NOISE * error


def by_hand(url: str, files: tuple[Path, Path], jobs: Sequence[Json], checkpoint: str) -> list[str]:
    """The curl commands that do the same: upload, rank, poll, fine-tune, download."""
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
    body = {name: _without_empty(job["spec"][name]) for name in fields}
    return f"curl {url} --json {shlex.quote(json.dumps(body))}"


def _without_empty(value: Any) -> Any:
    """The value without its empty fields."""
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if inner not in (None, [], {})}
