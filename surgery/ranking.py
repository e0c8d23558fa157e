"""From per-sample scores to a ranking that says how far it can be trusted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from surgery.architecture import Block
from surgery.data import TaskData, batches_by_length, choose_rows, encode
from surgery.fisher import FisherScores, fisher_scores
from surgery.head import warm_up
from surgery.loading import LoadedModel
from surgery.progress import Quiet, Reporter
from surgery.results import HeadReport, LayerScore, RankingResult, RecommendedK, Stability
from surgery.spec import Aggregate, RankingOptions

Matrix = np.ndarray[Any, np.dtype[np.float64]]
CERTAIN = 0.95  # a top-k set that recurs in fewer resamples is called ambiguous
BOOTSTRAP_CELLS = 20_000_000  # weights drawn at once: 160 MB


def rank_layers(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, report: Reporter | None = None
) -> RankingResult:
    """Rank the blocks of a loaded model on the training rows of a dataset.

    The head of ``loaded`` is warmed up in place; the encoder's weights are not changed.
    """
    report = report or Quiet()
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    report.phase("warmup")
    head = _prepare_head(loaded, data, options, report)
    seconds["warmup"] = time.perf_counter() - clock
    clock = time.perf_counter()
    report.phase("score")
    scores, rows = _score(loaded, data, options, report)
    seconds["score"] = time.perf_counter() - clock
    report.phase("bootstrap")
    clock = time.perf_counter()
    layers, stability = summarise(scores, loaded.blocks, options)
    seconds["bootstrap"] = time.perf_counter() - clock
    return RankingResult(
        method=options.method, aggregate=options.aggregate, fisher=options.fisher, samples=rows,
        path=scores.path, layers=layers, stability=stability, recommended_k=recommend_k(layers),
        head=head, warnings=scores.warnings + _warnings(head, rows, options, data),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )  # fmt: skip


def _prepare_head(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, report: Reporter
) -> HeadReport:
    new = bool(loaded.new)
    asked = options.head.warmup_epochs
    epochs = asked if asked is not None else int(new)
    rows = choose_rows(len(data.train), options.head.warmup_samples, options.seed + 1)
    loss = None
    if epochs:
        encoded = encode(data.train, loaded.tokenizer, options.max_length, rows)
        head = list(loaded.head.values())
        loss = warm_up(
            loaded.model, head, encoded, data.problem,
            epochs=epochs, seed=options.seed, report=report,
        )  # fmt: skip
    return HeadReport(
        source="new" if new else "checkpoint", warmup_epochs=epochs,
        warmup_rows=len(rows) if epochs else 0, warmup_loss=loss,
    )  # fmt: skip


def _score(
    loaded: LoadedModel, data: TaskData, options: RankingOptions, report: Reporter
) -> tuple[FisherScores, int]:
    rows = choose_rows(len(data.train), options.samples, options.seed)
    encoded = encode(data.train, loaded.tokenizer, options.max_length, rows)
    device = next(loaded.model.parameters()).device
    batches = (
        {name: tensor.to(device) for name, tensor in encoded.batch(chosen).items()}
        for chosen in batches_by_length(encoded.lengths, options.batch_size)
    )
    scores = fisher_scores(
        loaded.model, loaded.blocks, batches, data.problem,
        elementwise=options.aggregate is Aggregate.FROBENIUS,
        on_batch=lambda done: report.step(done, len(rows), "samples"),
    )  # fmt: skip
    return scores, len(rows)


def _warnings(head: HeadReport, rows: int, options: RankingOptions, data: TaskData) -> list[str]:
    found = []
    if head.source == "new" and head.warmup_epochs == 0:
        found.append(
            "the head is untrained: the ranking depends on the inputs and hardly on the labels"
        )
    if rows < options.samples:
        found.append(f"the train split has {rows} rows; each was scored once")
    if len(data.labels) > 1 and head.source == "new" and head.warmup_rows < 10 * len(data.labels):
        found.append("fewer than ten warm-up rows a class")
    return found


def summarise(
    scores: FisherScores, blocks: Sequence[Block], options: RankingOptions
) -> tuple[list[LayerScore], Stability]:
    """Aggregate to one score a layer, with intervals where the per-sample matrix is kept."""
    if scores.per_sample is None:
        return _summarise_frobenius(scores, blocks)
    matrix: Matrix = scores.per_sample.numpy()
    if options.aggregate is Aggregate.MEAN:
        matrix = matrix / np.array([block.parameters for block in blocks])
    resamples = bootstrap_means(matrix, options.bootstrap, options.seed)
    tau = split_half_tau(matrix, options.seed)
    return _layers(matrix.mean(0), blocks, resamples), _stability(matrix.mean(0), resamples, tau)


def _summarise_frobenius(
    scores: FisherScores, blocks: Sequence[Block]
) -> tuple[list[LayerScore], Stability]:
    assert scores.halves is not None
    totals, first, second = (
        frobenius(diagonal, scores.owner, len(blocks))
        for diagonal in (scores.diagonal, *scores.halves)
    )
    return _layers(totals, blocks, None), _stability(totals, None, _tau(first, second))


def frobenius(diagonal: dict[str, torch.Tensor], owner: dict[str, int], layers: int) -> Matrix:
    """Σ_p ‖D_p‖_F over the tensors of each block, shape (L,): the paper's released code."""
    totals = np.zeros(layers)
    for name, values in diagonal.items():
        totals[owner[name]] += float(values.double().norm())
    return totals


def bootstrap_means(matrix: Matrix, resamples: int, seed: int) -> Matrix | None:
    """Column means over rows drawn with replacement, (B, L); None when none are asked for."""
    if resamples == 0:
        return None
    samples = len(matrix)
    generator = np.random.default_rng(seed)
    chunk = max(1, BOOTSTRAP_CELLS // samples)
    parts = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = generator.multinomial(samples, np.full(samples, 1 / samples), size=size)
        parts.append(weights @ matrix / samples)
    return np.concatenate(parts)


def split_half_tau(matrix: Matrix, seed: int) -> float | None:
    """Kendall's τ-b between the rankings of two random halves of the samples."""
    order = np.random.default_rng(seed).permutation(len(matrix))
    middle = len(order) // 2
    if middle == 0:  # one sample: there is no second half
        return None
    return _tau(matrix[order[:middle]].mean(0), matrix[order[middle:]].mean(0))


def _tau(first: Any, second: Any) -> float | None:
    tau = float(kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau


def _layers(means: Matrix, blocks: Sequence[Block], resamples: Matrix | None) -> list[LayerScore]:
    total = float(means.sum())
    order = np.argsort(-means, kind="stable")
    low_high = p_top = None
    if resamples is not None:
        low_high = np.percentile(resamples, [2.5, 97.5], axis=0)
        ranks = np.argsort(np.argsort(-resamples, axis=1, kind="stable"), axis=1)
        p_top = [(ranks < k).mean(0) for k in range(1, len(blocks) + 1)]
    return [
        LayerScore(
            rank=rank + 1,
            name=blocks[index].name,
            index=int(index),
            score=float(means[index]),
            share=float(means[index]) / total if total > 0 else 0.0,
            ci=None if low_high is None else (float(low_high[0, index]), float(low_high[1, index])),
            p_top_k=None if p_top is None
            else {str(k + 1): float(row[index]) for k, row in enumerate(p_top)},
            parameters=blocks[index].parameters,
        )
        for rank, index in enumerate(order)
    ]  # fmt: skip


def _stability(means: Matrix, resamples: Matrix | None, tau: float | None) -> Stability:
    if resamples is None:
        return Stability(split_half_kendall_tau=tau, rank_confidence=None, ambiguous_k=None)
    order = np.argsort(-means, kind="stable")
    orders = np.argsort(-resamples, axis=1, kind="stable")
    same_set = [
        (np.sort(orders[:, :k], axis=1) == np.sort(order[:k])).all(1).mean()
        for k in range(1, len(means))
    ]
    return Stability(
        split_half_kendall_tau=tau,
        rank_confidence=float((orders == order).all(1).mean()),
        ambiguous_k=[k for k, share in enumerate(same_set, start=1) if share < CERTAIN],
    )


def recommend_k(layers: Sequence[LayerScore]) -> RecommendedK:
    """The smallest k whose layers hold half of the total score."""
    held = 0.0
    for layer in layers:
        held += layer.share
        if held >= 0.5:
            return RecommendedK(
                k=layer.rank, reason="smallest k with at least half of the total score"
            )
    return RecommendedK(k=len(layers), reason="all scores are zero: no layer stands out")
