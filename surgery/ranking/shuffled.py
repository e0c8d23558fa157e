"""How far each unit's part of the total score is above its part on shuffled labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import Batch, Encoded, TaskData, choose_rows
from surgery.data.tokens.sequences import IGNORED
from surgery.heads.features import HeadFeatures, preserved_head
from surgery.heads.prepare import prepare_head
from surgery.models.distributed import broadcast_weights
from surgery.models.loading import renew_head
from surgery.ranking.scorer import Scorer
from surgery.ranking.scores import Matrix, Scores, from_samples
from surgery.schemas.jobs.ranking import SHUFFLES

ROUNDING = 1e-12  # an error of a share below this one is that of float64


@dataclass(frozen=True)
class Rows:
    """The training rows that are scored or train the head, with their own or shuffled labels.

    ``encoded`` holds each of them once. ``scored`` and ``fitted`` are places in it; the latter is
    empty if no head is trained.
    """

    encoded: Encoded
    scored: list[int]
    fitted: list[int]

    @classmethod
    def of(cls, scorer: Scorer, data: TaskData, *, trained: bool) -> Rows:
        """The rows that the options of a ranking choose."""
        options, total = scorer.options, len(data.train)
        scored = choose_rows(total, options.samples, options.seed)
        warmup = options.head.warmup_samples if trained else 0
        fitted = choose_rows(total, warmup, options.seed + 1)
        rows = sorted({*scored, *fitted})
        places = {row: place for place, row in enumerate(rows)}
        return cls(
            encode_split(data, "train", scorer.loaded.tokenizer, options.max_length, rows),
            [places[row] for row in scored],
            [places[row] for row in fitted],
        )

    def shuffled(self, seed: Sequence[int]) -> Rows:
        """The same rows with their labels dealt out anew, to tagged tokens one by one."""
        chance, labels = np.random.default_rng(seed), self.encoded.labels.copy()
        if self.encoded.tagged:
            labels[labels != IGNORED] = chance.permutation(self.encoded.targets)
        else:
            labels = chance.permutation(labels)
        return replace(self, encoded=replace(self.encoded, labels=labels))

    def relabel(self, features: HeadFeatures, batches: Sequence[Batch]) -> list[Batch]:
        """Batches of the features of the rows ``fitted``, with the labels of these rows."""
        return [
            {**batch, "labels": self._labels(rows).to(batch["labels"])}
            for batch, rows in zip(batches, features.rows, strict=True)
        ]

    def _labels(self, numbers: Sequence[int]) -> Tensor:
        return self.encoded.batch([self.fitted[number] for number in numbers])["labels"]


def minus_shuffled(
    scorer: Scorer, data: TaskData, own: Scores, features: HeadFeatures | None, ridge: float | None
) -> Scores:
    """The standardised difference of the scores ``own``, as parts of their total, to shuffled ones.

    Each of SHUFFLES times the labels are dealt out anew among all rows that are scored or train
    the head. If the head was trained on ``features``, a new one is drawn and trained on the
    shuffled labels in the same way, with the same ``ridge`` if there was one, as `model_prior`
    does: then labels that say nothing of the texts are like any shuffle of them, but for the ridge,
    and the expected difference is zero. Through the first head it would not be, because that head
    has learnt the labels of these very rows. A row has the same shuffled label where it is scored
    and where it trains the head, for the same reason. The head is restored afterwards.
    """
    rows = Rows.of(scorer, data, trained=features is not None)
    loaded, options = scorer.loaded, scorer.options
    found = []
    for number in range(SHUFFLES):
        shuffled = rows.shuffled((options.seed, number))
        with preserved_head(loaded.head):
            if features is not None:
                renew_head(loaded.model, options.seed, loaded.new)
                prepare_head(
                    features,
                    options.head,
                    new=bool(loaded.new),
                    seed=options.seed,
                    relabel=partial(shuffled.relabel, features),
                    ridge=ridge,
                )
                broadcast_weights(loaded.model, scorer.sample.share)
                scorer.head_changed()
            with scorer.sample.replaced(shuffled.encoded.select(rows.scored)):
                found.append(scorer.fisher())
    scorer.head_changed()
    return standardised_difference(own, found)


def standardised_difference(own: Scores, shuffled: Sequence[Scores]) -> Scores:
    """The mean difference d̄ over its standard error, √(Var_i(d_i) / N + (1 + 1/K) Var_k(r_k)).

    r is a unit's score over the total of the ranked units, on the labels, and r_k on shuffle k;
    r_i and r_ki are the parts of sample i in them (see `_of_total`), and d_i = r_i − Σ_k r_ki / K.
    The first term is the choice of samples. The second is the luck of the labels: through the head,
    which all samples share, it moves all d_i together, so that no spread over samples shows it. If
    the labels say nothing of the texts, r is like another r_k, and r minus the mean of K of them
    has that variance.

    A unit whose difference is mere rounding scores 0. The scores of single samples are d_i over
    that error, so that resamples have the unit of the score.
    """
    others = np.stack([_of_total(scores) for scores in shuffled])
    count, samples = others.shape[:2]
    difference: Matrix = _of_total(own) - others.mean(0)
    of_labels = (1 + 1 / count) * others.mean(1).var(0, ddof=1)
    error = np.sqrt(difference.var(0) / samples + of_labels)
    standardised = np.zeros_like(difference)
    np.divide(difference, error, out=standardised, where=error > ROUNDING)
    return from_samples(own.units, standardised)


def _of_total(scores: Scores) -> Matrix:
    """Numbers (N, U) whose means over samples are the scores over the total of the ranked units.

    The weights of the head scale the gradients of all units alike, by factors that differ between
    labels by orders of magnitude and say nothing of a unit. For sample i with score x_i and total
    w_i they are R + (x_i − R w_i) / w̄, with R = x̄ / w̄: their spread is that of the ratio by the
    delta method. Zeros if the total is zero.
    """
    assert scores.per_sample is not None
    ranked = [place for place, unit in enumerate(scores.units) if unit.ranked]
    totals = scores.per_sample[:, ranked].sum(1, keepdims=True)
    if not totals.mean() > 0:
        return np.zeros_like(scores.per_sample)
    ratio = scores.per_sample.mean(0) / totals.mean()
    found: Matrix = ratio + (scores.per_sample - ratio * totals) / totals.mean()
    return found
