"""Every encoder, head, estimator, aggregate and granularity against the slow twin, in float64.

    python -m tests.support.reference.encoder_table            prints the table of docs/science/encoders.md
    python -m tests.support.reference.encoder_table --write    writes it there

The tests run the cases that the table lists, and hold its paths and errors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from surgery.gradients.engine import FisherScores, fisher_scores
from surgery.gradients.passes import Objective
from surgery.models.blocks import Unit, find_blocks, groups_of, units_of
from surgery.ranking.scores import fisher_units, frobenius_of_halves
from surgery.schemas.enums import Aggregate, Fisher, Granularity, Problem
from tests.support.models.encoders import CONFIGS, NO_CHOICES, padded_batch, tiny
from tests.support.reference.gradients import squared_gradients

DOCUMENT = Path(__file__).parents[3] / "docs" / "science" / "encoders.md"
HEADS: dict[str, tuple[Problem, int]] = {
    "two classes": (Problem.CLASSIFICATION, 2),
    "three classes": (Problem.CLASSIFICATION, 3),
    "regression": (Problem.REGRESSION, 1),
    "multiple choice": (Problem.MULTIPLE_CHOICE, 1),
    "tokens": (Problem.TOKEN_CLASSIFICATION, 3),
}
LENGTHS = ([6, 5], [5, 4, 4])
DRAWS = 2
SEED = 7
# A gradient that is zero but for rounding (a key bias moves every attention score alike) has no
# relative error: those below this share of the largest of their sample are left out.
ZERO = 1e-13


@dataclass(frozen=True)
class Case:
    """One encoder with one head."""

    encoder: str
    head: str

    @property
    def problem(self) -> Problem:
        """What the head predicts."""
        return HEADS[self.head][0]


@dataclass(frozen=True)
class Measured:
    """The path a case took, and the largest relative error over everything it scored."""

    path: str
    error: float
    why: str


def cases() -> Iterator[Case]:
    """All that transformers has a head for."""
    for encoder in CONFIGS:
        for head in HEADS:
            if head != "multiple choice" or encoder not in NO_CHOICES:
                yield Case(encoder, head)


class StayDouble(TorchFunctionMode):
    """Some models do a softmax or a rotation in float32 whatever their weights are; that rounding
    would hide errors below 1e-7. Here float64 stays float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        named = [a for a in (*args, kwargs.get("dtype")) if a is torch.float32]
        if not named and func is not Tensor.float:
            return func(*args, **kwargs)
        doubles = any(isinstance(a, Tensor) and a.dtype == torch.float64 for a in args)
        if doubles and func is Tensor.float:
            return args[0]
        if doubles:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


class WatchFloat32(TorchDispatchMode):
    """Notices when a double that weights had a part in becomes a float32."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        doubles = any(
            isinstance(a, Tensor) and a.dtype == torch.float64 and a.requires_grad for a in args
        )
        self.seen |= doubles and getattr(result, "dtype", None) is torch.float32
        return result


def computes_in(encoder: str) -> str:
    """The precisions of the logits' computation where weights are float64."""
    batch = padded_batch([6, 5], kind=encoder)
    with WatchFloat32() as watch:
        tiny(encoder)(input_ids=batch["input_ids"])
    return "float64, float32 inside" if watch.seen else "float64"


@cache
def model_of(case: Case) -> nn.Module:
    """Drawn at random, in float64 throughout."""
    model = tiny(case.encoder, labels=HEADS[case.head][1], problem=case.problem)
    forward = model.forward

    @wraps(forward)
    def in_double(*args: Any, **kwargs: Any) -> Any:
        with StayDouble():
            return forward(*args, **kwargs)

    model.forward = in_double
    return model


def batches_of(case: Case) -> list[dict[str, Tensor]]:
    """Five samples of unlike length in two batches."""
    labels = HEADS[case.head][1]
    more = 4 if case.problem is Problem.MULTIPLE_CHOICE else 0  # Longformer's have three separators
    return [
        padded_batch(
            [n + more for n in lengths],
            labels=labels,
            seed=seed,
            kind=case.encoder,
            problem=case.problem,
        )
        for seed, lengths in enumerate(LENGTHS)
    ]


def numbered(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The same, each of which says which samples it holds."""
    rows = [len(batch["labels"]) for batch in batches]
    parts = torch.arange(sum(rows)).split(rows)
    return [{**batch, "sample": part} for batch, part in zip(batches, parts, strict=True)]


def measure(case: Case, fisher: Fisher) -> Measured:
    """Compare every unit at every granularity, and every aggregate."""
    model, batches = model_of(case), batches_of(case)
    draws = DRAWS if fisher is Fisher.SAMPLED else 1
    twin = squared_gradients(model, batches, case.problem, fisher, draws=draws, seed=SEED)
    objective = Objective(case.problem, fisher, draws, SEED)
    blocks = find_blocks(model)
    errors, path, why = [], "", ""
    for granularity in Granularity:
        units = units_of(model, blocks, granularity) + groups_of(model, blocks)
        found = fisher_scores(model, units, batches, objective)
        errors += [_trace_error(found, twin, aggregate) for aggregate in ("trace", "mean")]
        path, messages = found.path, [warning.message for warning in found.warnings]
        why = next((w for w in messages if w.split()[0] not in {"other", "pooler"}), "")
        halves = [
            fisher_scores(model, units, [half], objective, elementwise=True)
            for half in numbered(batches)
        ]
        errors.append(_frobenius_error(*halves, twin))
    return Measured(path, max(errors), why)


def _trace_error(found: FisherScores, twin: Sequence[dict[str, Tensor]], aggregate: str) -> float:
    assert found.per_sample is not None
    expected = torch.stack(
        [torch.stack([_total(sample, unit) for unit in found.units]) for sample in twin]
    )
    assert found.per_sample.shape == expected.shape
    if aggregate == "trace":
        return _worst(found.per_sample, expected)
    sizes = torch.tensor([unit.parameters for unit in found.units])
    scores = fisher_units(found, Aggregate.MEAN)
    return _worst(torch.from_numpy(scores.values), (expected / sizes).mean(0))


def _total(sample: dict[str, Tensor], unit: Unit) -> Tensor:
    return torch.stack([sample[name].sum() for name in unit.members]).sum()


def _frobenius_error(
    first: FisherScores, second: FisherScores, twin: Sequence[dict[str, Tensor]]
) -> float:
    """By halves of the samples, as every ranking takes it."""
    expected = []
    for unit in first.units:
        means = [torch.stack([s[name] for s in twin]).mean(0) for name in unit.members]
        expected.append(sum(mean.norm() for mean in means))
    scores = frobenius_of_halves(first, second).values
    return _worst(torch.from_numpy(scores), torch.stack([torch.as_tensor(e) for e in expected]))


def _worst(found: Tensor, expected: Tensor) -> float:
    counted = expected > ZERO * expected.max()
    assert bool((found[~counted] <= 10 * ZERO * expected.max()).all())
    return float(((found - expected).abs() / expected)[counted].max())


def table() -> str:
    """In Markdown: a line for each encoder, a column for each head."""
    lines = ["| encoder | " + " | ".join(HEADS) + " | path | computes in | why not batched |"]
    lines.append("|---|" + "--:|" * len(HEADS) + "---|---|---|")
    for encoder in CONFIGS:
        cells, path, why = [], set(), ""
        for head in HEADS:
            case = Case(encoder, head)
            if case not in set(cases()):
                cells.append("–")
                continue
            results = [measure(case, fisher) for fisher in Fisher]
            cells.append(f"{max(result.error for result in results):.0e}")
            path |= {result.path for result in results}
            why = why or results[0].why
        reason = why.partition(": ")[2].replace("|", "/") if path != {"batched"} else ""
        words = [encoder, *cells, " ".join(path), computes_in(encoder), reason]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    text = table()
    print(text)  # noqa: T201
    if "--write" in sys.argv:
        before, start, rest = DOCUMENT.read_text().partition("<!-- table -->\n")
        _, end, after = rest.partition("<!-- end -->")
        DOCUMENT.write_text(before + start + text + "\n" + end + after)
