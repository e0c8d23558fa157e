"""Per-sample squared gradients of log-likelihoods: the diagonal of the Fisher information.

For a sample i with log-likelihood ℓ_i and a parameter tensor p, g_{i,p} = ∇_p ℓ_i, and the
diagonal is D_p = (1/N) Σ_i g_{i,p}² (Lodha et al., "On Surgical Fine-tuning for Language
Encoders", Findings of EMNLP 2023). Neither one backward pass a sample nor the gradients of a
batch in memory are needed: parameters are frozen, so autograd computes activation gradients only,
and from a Linear's inputs A_i (T × d) and output gradients G_i (T × p) follow

    ‖g_i‖² = Σ_{t,s} (A_i A_iᵀ)_{ts} (G_i G_iᵀ)_{ts}        (the trace, g_i never formed)
    g_i    = G_iᵀ A_i                                        (elementwise, one sample at a time)

A model whose modules do not follow these rules takes the slow path of one backward pass a sample,
and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.architecture import Block, block_of_parameter
from surgery.data import Batch
from surgery.errors import ScoresNotFinite
from surgery.hooks import Accumulator, Diagonal, GradientHooks, Traces, UnsupportedModule
from surgery.spec import Problem

Path = Literal["batched", "one_sample"]
CHECK_TOKENS = 16  # of the rows that are scored both ways: rules do not depend on length
CHECK_TOLERANCE = 5e-3  # of a layer's score: far above float32 noise, far below any wrong formula


@dataclass(frozen=True)
class FisherScores:
    """What one pass over the samples gives.

    ``per_sample`` (N, L), float64: squared gradient norm of each sample and block, in the order
    the samples were passed; None for an elementwise pass. ``halves``: for an elementwise pass,
    the sum of squares over each of two disjoint halves of the samples, parameter name → tensor.
    ``owner``: scored parameter → index of its block.
    """

    samples: int
    path: Path
    owner: dict[str, int]
    per_sample: Tensor | None = None
    halves: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def diagonal(self) -> dict[str, Tensor]:
        """D_p of each scored parameter, in the parameter's shape."""
        if self.halves is None:
            raise ValueError("only an elementwise pass keeps the diagonal")
        first, second = self.halves
        return {name: (first[name] + second[name]) / self.samples for name in first}


def log_likelihood(logits: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """log p(y | x) of each row, shape (N,); a regression is a Gaussian of unit variance."""
    if problem is Problem.REGRESSION:
        return -0.5 * (logits.squeeze(-1) - labels.to(logits.dtype)).square()
    return -F.cross_entropy(logits, labels, reduction="none")


def fisher_scores(
    model: nn.Module,
    blocks: Sequence[Block],
    batches: Iterable[Batch],
    problem: Problem,
    *,
    elementwise: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> FisherScores:
    """Score every block on every sample, in eval mode, each sample once.

    ``batches`` hold ``input_ids`` and ``attention_mask`` (N, T) and ``labels`` (N,). Costs about
    0.75 of a training step's forward and backward for the trace, and about 1.1–1.4 elementwise;
    memory does not grow with the number of samples, the N × L matrix aside.
    Raises ScoresNotFinite when a gradient is NaN or infinite.
    """
    owner = block_of_parameter(model, list(blocks))
    names = [name for name, _ in model.named_parameters() if name in owner]
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no batch to score")
    with _restored(model):
        model.eval()
        reason = reason_for_slow_path(model, names, first, problem)
        accumulator: Accumulator = (Diagonal if elementwise else Traces)(model, names)
        score = score_batch if reason is None else _score_one_by_one
        total = 0
        for batch in _chain(first, iterator):
            score(model, accumulator, batch, problem)
            total += len(batch["labels"])
            if on_batch:
                on_batch(total)
    return _result(accumulator, total, reason, owner, len(blocks))


def _result(
    accumulator: Accumulator, total: int, reason: str | None, owner: dict[str, int], layers: int
) -> FisherScores:
    path: Path = "batched" if reason is None else "one_sample"
    warnings = [] if reason is None else [f"scored one sample at a time: {reason}"]
    if isinstance(accumulator, Diagonal):
        _require_finite(torch.stack([h.sum() for d in accumulator.halves for h in d.values()]))
        return FisherScores(total, path, owner, halves=accumulator.halves, warnings=warnings)
    assert isinstance(accumulator, Traces)
    per_sample = torch.zeros(total, layers, dtype=torch.float64)
    columns = torch.tensor([owner[name] for name in accumulator.names])
    per_sample.index_add_(1, columns, accumulator.matrix())
    _require_finite(per_sample)
    return FisherScores(total, path, owner, per_sample=per_sample, warnings=warnings)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put every module's mode and every parameter's requires_grad back on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def _chain(first: Batch, rest: Iterable[Batch]) -> Iterable[Batch]:
    yield first
    yield from rest


def _require_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise ScoresNotFinite


def _forward(model: nn.Module, batch: Batch, problem: Problem) -> Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return log_likelihood(model(**inputs).logits, batch["labels"], problem)


def score_batch(model: nn.Module, accumulator: Accumulator, batch: Batch, problem: Problem) -> None:
    """Add every row of a batch to an accumulator by the batched formulas. Freezes the model."""
    model.requires_grad_(False)
    rows = len(batch["labels"])
    accumulator.begin(rows)
    with GradientHooks(model, accumulator, rows) as hooks:
        # Summed, never averaged: each row's gradient must be its own.
        total = _forward(model, batch, problem).sum()
        hooks.expect_all_used()
        total.backward()


def _score_one_by_one(
    model: nn.Module, accumulator: Accumulator, batch: Batch, problem: Problem
) -> None:
    model.requires_grad_(False)
    parameters = dict(model.named_parameters())
    scored = [parameters[name].requires_grad_(True) for name in accumulator.names]
    accumulator.begin(len(batch["labels"]))
    for row in range(len(batch["labels"])):
        single = _without_padding(batch, row)
        value = _forward(model, single, problem).sum()
        gradients = torch.autograd.grad(value, scored, allow_unused=True)
        for name, gradient in zip(accumulator.names, gradients, strict=True):
            if gradient is not None:  # a parameter this input does not reach has no gradient
                accumulator.add_gradient(name, row, gradient)


def _without_padding(batch: Batch, row: int) -> Batch:
    """One row, cut to its own tokens."""
    length = int(batch["attention_mask"][row].sum())
    return {
        name: tensor[row : row + 1] if tensor.dim() == 1 else tensor[row : row + 1, :length]
        for name, tensor in batch.items()
    }


def _unequal_pair(batch: Batch) -> Batch:
    """The start of the longest row, and of the shortest cut to half of that."""
    lengths = batch["attention_mask"].sum(1)
    pair = lengths.argsort()[[-1, 0]]
    longest = min(CHECK_TOKENS, int(lengths[pair[0]]))
    probe = {n: t[pair] if t.dim() == 1 else t[pair, :longest] for n, t in batch.items()}
    probe["attention_mask"][1, max(1, longest // 2) :] = 0
    return probe


def reason_for_slow_path(
    model: nn.Module, names: list[str], batch: Batch, problem: Problem
) -> str | None:
    """Why the batched formulas do not hold for this model, or None.

    Beside the structural guards, two samples of unequal length are scored both ways: a module that
    mixes rows, or padding that leaks, shows there.
    """
    probe = _unequal_pair(batch)
    fast, slow = Traces(model, names), Traces(model, names)
    try:
        score_batch(model, fast, probe, problem)
    except UnsupportedModule as error:
        return str(error)
    _score_one_by_one(model, slow, probe, problem)
    expected, found = slow.matrix(), fast.matrix()
    _require_finite(expected)
    scale = expected.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    if ((found - expected).abs() / scale).max() > CHECK_TOLERANCE:
        return "batched gradients of this architecture differ from single ones"
    return None
