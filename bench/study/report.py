"""docs/science/study.md from the finished cells: what was run, what is missing, what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.study.cells import ALL, HEAD, arm_of, arms, chosen_by
from bench.study.statistics import (
    ByTask,
    Estimate,
    Run,
    correlations,
    differences,
    estimate,
    paired,
    regrets,
    runs_of,
)

PAGE = Path("docs/science/study.md")
IMAGES = Path("docs/images")
METHODS = (
    *("fisher", "fisher frobenius", "gradient_norm", "relative_gradient_norm", "snip"),
    *("weight_snr", "cls_similarity", "tangent", "last", "first", "random"),
)
POLICIES = (
    *("best single layer", "top-2 fisher", "top-2 fisher frobenius"),
    *("top-2 relative_gradient_norm", "top-2 tangent", "bottom-2 fisher"),
    *("first-2", "last-2", "random-2", "head alone", "LoRA", "all layers"),
)
COLUMNS = {"all layers": "minus all layers, at this rate", "LoRA": "minus LoRA, at its rate"}
OTHERS = ("all layers", "LoRA", "top-2 fisher")  # what every policy is compared with
NAMES = {name: f"{name} trace" for name in ("fisher", "top-2 fisher", "bottom-2 fisher")}
INTRODUCTION = """# Which layers are worth training, and does a score tell?

Written by `python -m bench.study --report`; every number comes from the cells of `python -m \
bench.study` that were finished when it ran. One small encoder was trained on a few thousand rows \
a task, so this says what happened here, not what happens everywhere.
"""
HOW = """## What was run

The encoder is `all-MiniLM-L6-v2` (6 layers of 384), with a new head. At most {rows:,} train rows \
a task and at most {tokens:,} tokens of them in all, {epochs} epochs, batches of {batch_size}, \
AdamW at {learning_rate:g} (LoRA: rank 8 at {lora_learning_rate:g}), warm-up over 6 % of the steps \
and linear decay; texts are cut at {max_length} tokens. A run is measured once, at its end, on the \
task's validation rows, or on {validation:,} of them where it has more (the same for all): no \
checkpoint is chosen by them. A seed draws the train rows, the head, the batches and dropout, and \
the rows and head of the ranking. Rankings see {samples} train rows. A set of layers that two \
policies choose is trained once.
"""
ONE_RATE = """## What one rate leaves open

Everything but LoRA was trained at one learning rate. The default of 0.0003 was looked for on \
SST-2 alone, with a seed outside the study, and not for each way to train; LoRA's was not looked \
for. A rate that suits one or two layers can be too high for all of them. So what is told below of \
all layers is told of them *at this rate*: a selection that is ahead of them here may be behind \
them at a rate of their own, and whether training a few layers is better than training all is not \
answered. Selections of as many layers may want different rates, too, and so the gains of single \
layers, and the scores that are judged by them, hold at this rate.
"""
MEANING = """Values are in points (metric × 100): accuracy, for CoLA Matthews correlation, for \
STS-B Pearson. Averages are means over tasks of the means over seeds. Intervals in brackets are \
the middle 95 % of 10,000 resamples of whole tasks, and of seeds inside each; with so few tasks \
they are rather too narrow. Nothing is corrected for looking at many methods.
"""
Table = list[list[str]]


class Finished(Protocol):
    """The results that a report is written from."""

    setting: dict[str, Any]
    lines: Mapping[tuple[str, int, str], dict[str, Any]]
    others: int


def write_report(results: Finished, tasks: Sequence[str], seeds: Sequence[int]) -> None:
    """Write the page and its figures. Raises ValueError if no ranking is finished."""
    from bench.study.plots import plot_correlations, plot_gains  # matplotlib is for them alone

    runs = _asked(results, tasks, seeds)
    PAGE.write_text(page(results, tasks, seeds))
    if any(run.gains for run in runs):
        plot_gains(IMAGES / "study-gains.svg", runs)
        found = {_name(method): correlations(runs, method) for method in METHODS}
        plot_correlations(IMAGES / "study-scores.svg", found)
    print(f"written to {PAGE}")


def page(results: Finished, tasks: Sequence[str], seeds: Sequence[int]) -> str:
    """The text of the page. Raises ValueError if no ranking is finished."""
    runs = _asked(results, tasks, seeds)
    sections = [
        *(INTRODUCTION, HOW.format(**results.setting)),
        *_progress(results, runs, tasks, seeds),
        *(MEANING, ONE_RATE),
    ]
    if any(run.gains for run in runs):
        found = {method: correlations(runs, method) for method in METHODS}
        sections += [*_layers(runs), *_methods(runs, found)]
    return "\n".join([*sections, *_policies(runs)])


def _asked(results: Finished, tasks: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    asked = [line for (t, s, _), line in results.lines.items() if t in tasks and s in seeds]
    runs = runs_of(asked)
    if not runs:
        raise ValueError("no ranking is finished in these results, for this setting")
    return runs


def _progress(
    results: Finished, runs: Sequence[Run], tasks: Sequence[str], seeds: Sequence[int]
) -> Iterator[str]:
    """One row for each task: its rows, the finished cells by seed, and what is missing."""
    known = {(run.task, run.seed): run for run in runs}
    rows, missing, done = [], 0, 0
    for task in tasks:
        own = [
            line for (t, _, arm), line in results.lines.items() if t == task and arm != "ranking"
        ]
        cells = []
        for seed in seeds:
            run = known.get((task, seed))
            planned = len(arms(dict(run.scores), seed)) if run else None
            count = len(run.values) if run else 0
            done += count
            missing += (planned or 0) - count
            cells.append(f"{count} of {planned}" if planned else "none")
        sizes = [_span([line[name] for line in own]) for name in ("train_rows", "validation_rows")]
        rows.append([task, own[0]["metric"] if own else "", *sizes, *cells])
    header = ["task", "metric", "train rows", "validation rows", *[f"seed {s}" for s in seeds]]
    yield _markdown([header, *rows], left=2)
    pending = len(tasks) * len(seeds) - len(known)
    yield (
        f"\nFinished fine-tunes: {done}. Missing: {missing} of the tasks and seeds that are "
        f"ranked, and all of {pending} further pairs of task and seed. The same command goes on "
        "with them.\n"
    )
    if results.others:
        yield f"{results.others} cells of other settings in the same file are not counted.\n"


def _span(values: Sequence[int]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _layers(runs: Sequence[Run]) -> Iterator[str]:
    """The metric of training each layer alone, by task."""
    whole = [run for run in runs if run.gains]
    layers = whole[0].layers
    yield "## What each layer alone is worth\n"
    yield (
        "![Gain of each layer over the head alone, and of all layers, at one learning rate]"
        "(../images/study-gains.svg)\n"
    )
    rows = [["task", "seeds", HEAD, *map(str, range(layers)), ALL]]
    for task in dict.fromkeys(run.task for run in whole):
        own = [run for run in whole if run.task == task]
        singles = [_mean_of(own, arm_of([layer])) for layer in range(layers)]
        best = max(value for value in singles if value is not None)
        shown = [_points(v, bold=v == best) for v in singles]
        head, every = (_points(_mean_of(own, arm)) for arm in (HEAD, ALL))
        rows.append([task, str(len(own)), head, *shown, every])
    yield _markdown(rows, left=1)
    yield ""


def _mean_of(runs: Sequence[Run], arm: str) -> float | None:
    values = [run.values[arm] for run in runs if arm in run.values]
    return float(np.mean(values)) if values else None


def _methods(runs: Sequence[Run], found: Mapping[str, ByTask]) -> Iterator[str]:
    """How well each method's scores predict the gains of single layers."""
    yield "## Does a score tell which layer?\n"
    yield "![Spearman of score and gain, by method and task](../images/study-scores.svg)\n"
    yield (
        "Spearman is between a method's scores and the gains of the single layers. Regret is how "
        "many points the layer (or the two layers) that the method ranks first stay behind the "
        "best that was trained on the same task and seed; of pairs only those of the policies "
        "below were, so the regret of two is a lower bound, and is told only of runs where the "
        "method's own pair was trained. `minus fisher trace` compares on the same runs.\n"
    )
    rows = [["method", "Spearman", "minus fisher trace", "regret of 1", "regret of 2", "runs"]]
    for method in METHODS:
        own = estimate(found[method])
        against = estimate(paired(found[method], found["fisher"])) if method != "fisher" else None
        one, two = (estimate(regrets(runs, method, k)) for k in (1, 2))
        of_two = "" if two is None else f"{_told(two, 1)}, of {two.runs}"
        values = [_told(own, 2), _told(against, 2), _told(one, 1), of_two]
        rows.append([_name(method), *values, str(own.runs) if own else "0"])
    yield _markdown(rows, left=1)
    yield "\nSpearman by task (mean over seeds):\n"
    tasks = list(dict.fromkeys(task for groups in found.values() for task in groups))
    by_task = [["method", *tasks]]
    for method in METHODS:
        cells = [found[method].get(task) for task in tasks]
        by_task.append([_name(method), *[f"{np.mean(c):.2f}" if c else "" for c in cells]])
    yield _markdown(by_task, left=1)
    yield ""


def _policies(runs: Sequence[Run]) -> Iterator[str]:
    """The metric of each policy, and its distance from training everything."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    yield "## Policies\n"
    yield (
        "`best single layer` is the best of six by the validation rows themselves, so it is "
        "flattered; no other policy has seen them. `random-2` is one draw a seed, the same for "
        f"every task ({_draws(runs)}): it stands for these pairs, not for random ones. `minus …` "
        "compares on the same runs.\n"
    )
    yield from _seeds_of_all(runs)
    rows = [["trained", *tasks, *map(_column, OTHERS), "runs"]]
    for policy in POLICIES:
        of_task = [
            [r.policies()[policy] for r in runs if r.task == t and policy in r.policies()]
            for t in tasks
        ]
        cells = [f"{np.mean(values):.1f}" if values else "" for values in of_task]
        against = [
            "" if policy == other else _told(estimate(differences(runs, policy, other)), 1)
            for other in OTHERS
        ]
        rows.append([_name(policy), *cells, *against, str(sum(map(len, of_task)))])
    yield _markdown(rows, left=1)
    yield ""


def _seeds_of_all(runs: Sequence[Run]) -> Iterator[str]:
    """What training all layers reached with each seed, if there are several."""
    told = []
    for task in dict.fromkeys(run.task for run in runs):
        values = {
            run.seed: run.values[ALL] for run in runs if run.task == task and ALL in run.values
        }
        if len(values) > 1:
            each = ", ".join(f"{value:.1f} with seed {seed}" for seed, value in values.items())
            told.append(f"{task} {each}")
    if told:
        yield (
            f"A mean over few seeds can hide runs that have nothing in common. All layers reached, "
            f"on {'; on '.join(told)}.\n"
        )


def _column(other: str) -> str:
    return COLUMNS.get(other, f"minus {_name(other)}")


def _draws(runs: Sequence[Run]) -> str:
    """The random pair of each seed."""
    drawn = {run.seed: chosen_by(dict(run.scores), run.seed)["random-2"] for run in runs}
    pairs = (f"{' and '.join(map(str, drawn[seed]))} with seed {seed}" for seed in sorted(drawn))
    return ", ".join(pairs)


def _name(method: str) -> str:
    return NAMES.get(method, method)


def _points(value: float | None, *, bold: bool = False) -> str:
    if value is None:
        return ""
    return f"**{value:.1f}**" if bold else f"{value:.1f}"


def _told(found: Estimate | None, digits: int) -> str:
    if found is None:
        return ""
    mean = f"{found.mean:.{digits}f}"
    if found.tasks < 2:
        return f"{mean} (one task)"
    return f"{mean} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _markdown(rows: Table, left: int) -> str:
    head, *body = rows
    rule = ["---" if place < left else "--:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
