"""Time methods in turns on one case, and compare each result with one sample at a time."""

from __future__ import annotations

import gc
import importlib.util
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.fisher.cases import Case, log_likelihood, require_gradients_of_blocks, row_gradients
from bench.fisher.methods import Gives, Method, Run

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}  # of the largest relative error
BUDGET = 60.0  # seconds of a library's or a loop's timed rounds: fewer where slow, one at least
EXACT_ROWS = 3  # compared with the sum over classes, one row at a time
FLOOR = 1e-6  # of a layer's largest norm: key biases have no gradient but rounding


@dataclass
class Measured:
    """One method on one case. ``seconds`` are for all rows, one number a round."""

    method: str
    gives: str
    library: bool
    rows: int
    scaled: bool = False  # up, from a few rows
    estimate: bool = False
    documented: bool = True
    seconds: list[float] = field(default_factory=list)
    error: float | None = None  # the largest relative one
    lacks: list[str] = field(default_factory=list)  # kinds of modules without a result
    failure: str = ""
    message: str = ""
    right: bool = False
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Of the rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Of the rounds, in seconds."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest − fastest) / median of the rounds."""
        return (max(self.seconds) - self.best) / self.median

    @property
    def verdict(self) -> str:
        """The outcome in a few words, for a cell of a table."""
        if self.failure:
            return self.failure
        if self.lacks:
            return "no " + ", ".join(self.lacks)
        if self.gives == Gives.NOTHING or self.error is None:
            return ""
        if self.estimate:
            return "estimate"
        return "right" if self.right else "wrong"


@dataclass(frozen=True)
class Twin:
    """Reference results, computed slowly: each sample by itself, without padding."""

    norms: dict[str, Tensor]
    """Squared gradient norm of each sample, by parameter, (N,)."""
    diagonal: dict[str, Tensor]
    """Mean squared gradient of each parameter."""
    exact: Tensor
    """Σ_c p_c ‖∂ log p_c‖² of a few rows and each layer, (n, L)."""


def twin_of(case: Case) -> Twin:
    """A pass over all rows, one at a time."""
    norms = {name: torch.zeros(case.rows, dtype=torch.float64) for name in case.owner}
    diagonal = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in case.scored.items()}
    for row, gradients in enumerate(row_gradients(case, list(range(case.rows)))):
        for name, gradient in gradients.items():
            squares = gradient.float().square()
            norms[name][row] = squares.sum()
            diagonal[name] += squares / case.rows
    return Twin(norms, diagonal, _exact_rows(case))


def _exact_rows(case: Case) -> Tensor:
    parameters = require_gradients_of_blocks(case)
    layers = torch.tensor([case.owner[name] for name in case.scored])
    found = torch.zeros(0, len(case.blocks), dtype=torch.float64)
    for row in case.places(EXACT_ROWS):
        single = case.single(row)
        del single["labels"]
        logits = case.model(**single).logits
        total = torch.zeros(len(case.blocks), dtype=torch.float64)
        for label, p in enumerate(logits.detach().double().softmax(1)[0].tolist()):
            value = log_likelihood(logits, torch.tensor([label], device=logits.device))
            gradients = torch.autograd.grad(
                value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            squares = torch.stack([g.float().square().sum() for g in gradients]).double().cpu()
            total.index_add_(0, layers, p * squares)
        found = torch.cat([found, total[None]])
    return found


def measure(case: Case, methods: Sequence[Method], rounds: int, twin: Twin) -> list[Measured]:
    """All methods, taking turns; a first round warms up and is compared with the twin.

    A slow method sits out the later rounds.
    """
    found = [_begun(case, method) for method in methods]
    runs = [
        None if measured.failure else _first(case, method, measured, twin)
        for method, measured in zip(methods, found, strict=True)
    ]
    for turn in range(rounds):
        for method, measured, first in zip(methods, found, runs, strict=True):
            if first and (not method.may_be_slow or turn * first.seconds <= BUDGET):
                measured.seconds.append(_timed(case, first.run)[0])
    for method, measured in zip(methods, found, strict=True):
        if method.timed_rows and method.timed_rows < case.rows:
            measured.scaled = True
            scale = case.rows / method.timed_rows
            measured.seconds = [seconds * scale for seconds in measured.seconds]
    return found


@dataclass(frozen=True)
class _First:
    """What the first round leaves: the prepared call, and how long it took."""

    run: Run
    seconds: float


def _begun(case: Case, method: Method) -> Measured:
    measured = Measured(
        method.name,
        method.gives,
        method.is_library,
        case.rows,
        estimate=method.estimate,
        documented=method.documented,
    )
    if method.package and importlib.util.find_spec(method.package) is None:
        measured.failure = "not installed"
        measured.message = f"no module {method.package}: make bench-fisher installs it"
    return measured


def _first(case: Case, method: Method, measured: Measured, twin: Twin) -> _First | None:
    try:
        run = method.prepare(case)
        seconds, result = _timed(case, run)
        compare(case, result, measured, twin)
    except Exception as error:  # noqa: BLE001 - what a library raises is what is to be shown
        measured.failure = f"crashes: {type(error).__name__}"
        measured.message = " ".join(str(error).split())[:160]
        return None
    return _First(run, seconds)


def _timed(case: Case, run: Run) -> tuple[float, Any]:
    gc.collect()
    _synchronize(case)
    start = time.perf_counter()
    result = run()
    _synchronize(case)
    return time.perf_counter() - start, result


def _synchronize(case: Case) -> None:
    if next(case.model.parameters()).is_cuda:
        torch.cuda.synchronize()


def compare(case: Case, result: Any, measured: Measured, twin: Twin) -> None:
    """Note the largest relative error of the method's results against the reference."""
    if measured.gives == Gives.NOTHING:
        return
    names = list(result) if isinstance(result, dict) else list(case.owner)
    measured.lacks = _kinds_without(case, set(case.owner) - set(names))
    if measured.gives == Gives.TRACE:
        errors = _relative(_by_layer(case, result), _by_layer(case, _only(twin.norms, names)))
    elif measured.gives == Gives.EXACT:
        errors = _relative(result[case.places(EXACT_ROWS)], twin.exact)
    else:
        errors = _tensor_errors(case, result, _only(twin.diagonal, names))
    measured.error = float(errors.max())
    dtype = str(next(case.model.parameters()).dtype).removeprefix("torch.")
    measured.right = not measured.lacks and measured.error <= TOLERANCE[dtype]


def _only(named: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    return {name: named[name] for name in names}


def _kinds_without(case: Case, names: set[str]) -> list[str]:
    modules: dict[str, nn.Module] = dict(case.model.named_modules())
    return sorted({type(modules[name.rpartition(".")[0]]).__name__ for name in names})


def _by_layer(case: Case, norms: Tensor | dict[str, Tensor]) -> Tensor:
    if isinstance(norms, Tensor):
        return norms.double().cpu()
    found = torch.zeros(case.rows, len(case.blocks), dtype=torch.float64)
    for name, values in norms.items():
        found[:, case.owner[name]] += values.double().cpu()
    return found


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).abs() / expected


def _tensor_errors(case: Case, found: dict[str, Tensor], expected: dict[str, Tensor]) -> Tensor:
    """‖D − D'‖ / ‖D‖ of each tensor that has a gradient."""
    sizes = {name: float(value.double().norm()) for name, value in expected.items()}
    largest = [0.0] * len(case.blocks)
    for name, size in sizes.items():
        largest[case.owner[name]] = max(largest[case.owner[name]], size)
    errors = [
        float((found[name].to(value) - value).double().norm()) / sizes[name]
        for name, value in expected.items()
        if sizes[name] > FLOOR * largest[case.owner[name]]
    ]
    return torch.tensor(errors)
