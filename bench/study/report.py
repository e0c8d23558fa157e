"""docs/science/study.md from the finished cells: what was run, what is missing, what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.study.cells import ALL, CHOOSERS, HEAD, KINDS, SEARCH, arm_of, arms, kind_of
from bench.study.encoders import ENCODERS
from bench.study.statistics import (
    ERROR_RATE,
    POWER,
    RANDOM,
    ByTask,
    Estimate,
    Run,
    correlations,
    detectable,
    differences,
    estimate,
    holm,
    paired,
    regrets,
    runs_of,
    sign_flip_p_value,
)

PAGE = Path("docs/science/study.md")
IMAGES = Path("docs/images")
METHODS = (*CHOOSERS, "last", "first", "random")
FLATTERED = ("best single layer",)  # chosen by the validation rows themselves
POLICIES = (
    *FLATTERED,
    "search",
    *(f"top-2 {method}" for method in CHOOSERS),
    *("bottom-2 fisher", "first-2", "middle-2", "last-2", RANDOM, "head alone", "LoRA"),
    *("all layers", "all layers, rates decaying downwards", "all layers, unfreezing from the top"),
    "all layers, LISA",
)
OTHERS = ("all layers", "LoRA", "last-2")  # what every policy is compared with
INTRODUCTION = """# Which layers are worth training, and does a score tell?

Written by `python -m bench.study --report`; every number comes from the cells of `python -m \
bench.study` that were finished when it ran (`docs/data/study.jsonl`). Small encoders were trained \
on a few hundred rows a task, so this says what happened here, not what happens everywhere.
"""
HOW = """## What was run: {title}

At most {rows:,} train rows a task and at most {tokens:,} tokens of them in all, {epochs} epochs, \
batches of {batch_size}, AdamW with a warm-up over 6 % of the steps and linear decay; texts are \
cut at {max_length} tokens; numbers are {precision}. Every way to train has its own learning rate: \
the best of {layer_rates} for a set of layers, of {all_rates} for all layers, of {lora_rates} for \
LoRA (rank 8) and of {head_rates} for the head alone, chosen once for each task, with its first \
seed, on a fifth of the train rows that is set aside; then it trains on all of them. A run is \
measured once, at its end, on the task's validation rows, or on {validation:,} of them where it \
has more (the same for all): nothing is chosen by them. A seed draws the train rows, the head, the \
batches and dropout, and the rows and head of the ranking. Rankings see {samples} train rows. A \
set of layers that two policies choose is trained once.
"""
MEANING = """Values are in points (metric × 100). Averages are means over tasks of the means over \
seeds. Intervals in brackets are the middle 95 % of 10,000 resamples of whole tasks, and of seeds \
inside each; with so few tasks they are rather too narrow. A p value is that of the exact test \
that flips the signs of the tasks' means, adjusted by Holm's method for all rows of its column: \
where it is below {rate:g}, the difference is more than chance, for all rows at once. With T tasks \
no p value can be below 2^(1 − T) before it is adjusted.
"""
Table = list[list[str]]


class Finished(Protocol):
    """The results that a report is written from."""

    setting: dict[str, Any]
    lines: Mapping[tuple[str, int, str], dict[str, Any]]


def write_report(
    chapters: Sequence[Finished],
    tasks: Sequence[str],
    seeds: Sequence[int],
    pilot: Sequence[Run],
) -> None:
    """Write the page and its figures, a chapter for each encoder that has a finished ranking."""
    from bench.study.plots import plot_correlations, plot_gains  # matplotlib is for them alone

    PAGE.write_text(page(chapters, tasks, seeds, pilot))
    for results in chapters:
        runs = _asked(results, tasks, seeds)
        if any(run.gains for run in runs):
            name = results.setting["encoder"]
            plot_gains(IMAGES / f"study-{name}-gains.svg", runs)
            found = {method: correlations(runs, method) for method in METHODS}
            plot_correlations(IMAGES / f"study-{name}-scores.svg", found)
    print(f"written to {PAGE}")


def page(
    chapters: Sequence[Finished],
    tasks: Sequence[str],
    seeds: Sequence[int],
    pilot: Sequence[Run],
) -> str:
    """The text of the page. Raises ValueError if no ranking is finished."""
    known = [results for results in chapters if _asked(results, tasks, seeds)]
    if not known:
        raise ValueError("no ranking is finished in these results, for these settings")
    sections = [INTRODUCTION, *_planned(pilot, tasks), MEANING.format(rate=ERROR_RATE)]
    for results in known:
        sections += _chapter(results, tasks, seeds)
    return "\n".join(sections)


def _chapter(results: Finished, tasks: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    runs = _asked(results, tasks, seeds)
    setting = {**results.setting, "title": ENCODERS[results.setting["encoder"]]}
    told = {name: _rates_told(setting[name]) for name in setting if name.endswith("_rates")}
    yield HOW.format(**{**setting, **told})
    yield from _progress(results, runs, tasks, seeds)
    if any(run.gains for run in runs):
        yield from _layers(runs, setting["encoder"])
        yield from _methods(runs, setting["encoder"])
    yield from _policies(runs)
    yield from _rates(runs, setting)
    yield from _searches(runs)


def _rates_told(rates: Sequence[float]) -> str:
    *first, last = (f"{rate:g}" for rate in rates)
    return f"{', '.join(first)} and {last}" if first else last


def _asked(results: Finished, tasks: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    return runs_of(line for (t, s, _), line in results.lines.items() if t in tasks and s in seeds)


def _planned(pilot: Sequence[Run], tasks: Sequence[str]) -> Iterator[str]:
    """Which differences the study could be expected to show, by cells of an earlier one."""
    compared = len(POLICIES) - len(FLATTERED) - 1
    rows = [["compared in the earlier study", "its tasks", "difference that would be seen"]]
    for other in OTHERS:
        found = differences(pilot, "top-2 fisher" if other == "last-2" else "last-2", other)
        least = detectable(found, len(tasks), compared)
        if least is not None:
            name = f"{'top-2 fisher' if other == 'last-2' else 'last-2'} and {other}"
            rows.append([name, str(len(found)), f"{least:.1f} points"])
    if len(rows) == 1:
        return
    yield (
        "## What could be expected to show\n\nBefore this study an earlier one "
        "(`docs/data/study-one-rate.jsonl`: one learning rate for all, heads warmed up for an "
        f"epoch) told how far differences vary between tasks. With {len(tasks)} tasks and "
        f"{compared} policies compared at once, a true mean difference of this size would be told "
        f"apart from zero in {POWER:.0%} of such studies:\n"
    )
    yield _markdown(rows, left=1)
    yield "\nSmaller ones may exist and not be seen here.\n"


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
            planned = len(arms(dict(run.scores), task)) if run else None
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


def _span(values: Sequence[int]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _layers(runs: Sequence[Run], encoder: str) -> Iterator[str]:
    """The metric of training each layer alone, by task."""
    whole = [run for run in runs if run.gains]
    layers = whole[0].layers
    yield "### What each layer alone is worth\n"
    yield (
        "![Gain of each layer over the head alone, and of all layers, each at its own learning "
        f"rate](../images/study-{encoder}-gains.svg)\n"
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


def _methods(runs: Sequence[Run], encoder: str) -> Iterator[str]:
    """How well each method's scores predict the gains of single layers."""
    found = {method: correlations(runs, method) for method in METHODS}
    yield "### Does a score tell which layer?\n"
    yield (
        f"![Spearman of score and gain, by method and task](../images/study-{encoder}-scores.svg)\n"
    )
    yield (
        "Spearman is between a method's scores and the gains of the single layers; its p value is "
        "of being zero. Regret is how many points the layer (or the two layers) that the method "
        "ranks first stay behind the best that was trained on the same task and seed. "
        "Of pairs only those of the policies below were trained, so the regret of two is a lower "
        "bound. `minus fisher` compares on the same runs.\n"
    )
    known = {method: groups for method, groups in found.items() if groups}
    p_values = holm({method: sign_flip_p_value(groups) for method, groups in known.items()})
    against = {m: paired(groups, found["fisher"]) for m, groups in known.items() if m != "fisher"}
    p_against = holm({method: sign_flip_p_value(groups) for method, groups in against.items()})
    rows = [["method", "Spearman", "p", "minus fisher", "p", "regret of 1", "regret of 2", "runs"]]
    for method, groups in known.items():
        own = estimate(groups)
        minus = estimate(against[method]) if method in against else None
        one, two = (estimate(regrets(runs, method, k)) for k in (1, 2))
        told = [_told(own, 2), _p(p_values, method), _told(minus, 2), _p(p_against, method)]
        told += [_told(one, 1), _told(two, 1), str(own.runs) if own else "0"]
        rows.append([method, *told])
    yield _markdown(rows, left=1)
    yield "\nSpearman by task (mean over seeds):\n"
    tasks = list(dict.fromkeys(task for groups in known.values() for task in groups))
    by_task = [["method", *tasks]]
    for method, groups in known.items():
        cells = [groups.get(task) for task in tasks]
        by_task.append([method, *[f"{np.mean(c):.2f}" if c else "" for c in cells]])
    yield _markdown(by_task, left=1)
    yield ""


def _policies(runs: Sequence[Run]) -> Iterator[str]:
    """The metric of each policy, and its distance from training everything."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    yield "### Policies\n"
    yield (
        "`best single layer` is chosen by the validation rows themselves, so it is flattered, and "
        f"has no p value; no other policy has seen them. `{RANDOM}` is the mean over five pairs "
        "drawn by task and seed. `minus …` compares on the same runs.\n"
    )
    table = {policy: [run for run in runs if policy in run.policies()] for policy in POLICIES}
    known = [policy for policy, own in table.items() if own]
    against = {other: {p: differences(runs, p, other) for p in known} for other in OTHERS}
    p_values = {other: _p_values(groups, other) for other, groups in against.items()}
    head = [name for other in OTHERS for name in (f"minus {other}", "p")]
    rows = [["trained", *tasks, *head, "runs"]]
    for policy in known:
        values = [[r.policies()[policy] for r in table[policy] if r.task == t] for t in tasks]
        cells = [f"{np.mean(each):.1f}" if each else "" for each in values]
        for other in OTHERS:
            minus = None if policy == other else estimate(against[other][policy])
            cells += [_told(minus, 1), _p(p_values[other], policy)]
        rows.append([policy, *cells, str(len(table[policy]))])
    yield _markdown(rows, left=1)
    yield ""


def _p_values(groups: Mapping[str, ByTask], other: str) -> dict[str, float]:
    compared = {
        policy: own
        for policy, own in groups.items()
        if own and policy != other and policy not in FLATTERED
    }
    return holm({policy: sign_flip_p_value(own) for policy, own in compared.items()})


def _rates(runs: Sequence[Run], setting: Mapping[str, Any]) -> Iterator[str]:
    """How often each learning rate was chosen, by kind of arm."""
    rows = [["trained", "rates, with how often each was chosen", "runs"]]
    every = [(arm, cell) for run in runs for arm, cell in run.cells.items()]
    for kind, name in KINDS.items():
        chosen = [cell["learning_rate"] for arm, cell in every if kind_of(arm) == kind]
        counts = [f"{rate:g}: {chosen.count(rate)}" for rate in setting[name]]
        rows.append([kind, ", ".join(counts), str(len(chosen))])
    yield "### The learning rates that were chosen\n"
    yield (
        "Where the lowest or the highest rate is chosen often, a rate outside these might have "
        "been better still.\n"
    )
    yield _markdown(rows, left=2)
    yield ""


def _searches(runs: Sequence[Run]) -> Iterator[str]:
    """What each search chose, and what it cost."""
    found = [(run, run.cells[SEARCH]) for run in runs if SEARCH in run.cells]
    if not found:
        return
    yield "### What searches chose\n"
    yield (
        "`cost` is the search's seconds as a share of the seconds that training each layer alone "
        "once would take.\n"
    )
    rows = [["task", "seed", "layers", "rate", "points", "cost", "all layers", "best single layer"]]
    for run, cell in found:
        policies = run.policies()
        others = [_points(policies.get(name)) for name in ("all layers", "best single layer")]
        told = [arm_of(cell["layers"]), f"{cell['learning_rate']:g}", f"{run.values[SEARCH]:.1f}"]
        cost = f"{cell['search']['share']:.0%}"
        rows.append([run.task, str(run.seed), *told, cost, *others])
    yield _markdown(rows, left=3)
    yield ""


def _p(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.3f}" if name in values else ""


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
