"""How many tokens the rows of a dataset have, before a run has tokenised them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.db import Database
from app.db.tables import Job
from app.submissions.estimating.finished import newest_finished
from app.submissions.resolve import Subject
from surgery.data.lengths import FirstRows
from surgery.schemas.jobs.estimate import LengthBasis
from surgery.schemas.resolved import Resolved
from surgery.training.costs.flops import RowLength

Json = dict[str, Any]
# Median of MiniLM's tokenizer over the presets, by python -m bench.finetune.estimates --words.
TOKENS_PER_WORD = 1.25
SPECIAL_TOKENS = 2  # at the start and at the end of a row


def row_lengths(
    database: Database, subject: Subject, first: FirstRows | None, limit: int, choices: int
) -> tuple[LengthBasis, RowLength]:
    """Tokens of a training row, cut at ``limit``: as a job counted them, or else from its words.

    ``first`` are the first rows of a dataset that was not uploaded. Where nothing is known, rows
    are taken to be as long as the limit.
    """
    where = (Job.model == subject.model.id, Job.dataset == subject.dataset.id)
    for job in newest_finished(database, *where):
        pinned, result = Resolved.of(job.resolved), job.result or {}
        same = (
            pinned.model.fingerprint == subject.model.fingerprint
            and pinned.dataset.fingerprint == subject.dataset.fingerprint
        )
        if same and result.get("lengths"):
            return _counted(job, result, limit, choices)
    words = subject.words
    if words is None:
        return _of_first_rows(first, limit, choices)
    bins = [count * TOKENS_PER_WORD + SPECIAL_TOKENS for count in words["bins"]]
    longest = round(words["longest"] * TOKENS_PER_WORD) + SPECIAL_TOKENS
    row = _of_histogram(bins, words["train"], longest, limit, choices)
    basis = LengthBasis(
        source="words",
        tokens_per_word=TOKENS_PER_WORD,
        mean_tokens=round(row.tokens, 2),
        longest=min(longest, limit),
    )
    return basis, row


def _of_first_rows(
    first: FirstRows | None, limit: int, choices: int
) -> tuple[LengthBasis, RowLength]:
    """Lengths by the words of some rows, of which the longest is not known."""
    if first is None:
        longest = RowLength(float(limit) * choices, float(limit) ** 2 * choices)
        return LengthBasis(source="unknown", mean_tokens=None, longest=limit), longest
    tokens = np.minimum(np.array(first.words) * TOKENS_PER_WORD + SPECIAL_TOKENS, limit)
    row = RowLength(float(tokens.mean()) * choices, float((tokens**2).mean()) * choices)
    basis = LengthBasis(
        source="first_rows",
        tokens_per_word=TOKENS_PER_WORD,
        mean_tokens=round(row.tokens, 2),
        longest=limit,
    )
    return basis, row


def _counted(job: Job, result: Json, limit: int, choices: int) -> tuple[LengthBasis, RowLength]:
    lengths, measured = result["lengths"], result.get("throughput")
    options = job.spec.get("training") or job.spec
    if measured and options["max_length"] == limit:
        row = RowLength(measured["mean_tokens"], measured["mean_squares"])
    else:
        row = _of_histogram(lengths["bins"], lengths["counts"], lengths["longest"], limit, choices)
    mean, longest = round(row.tokens, 2), min(lengths["longest"], limit)
    return LengthBasis(source="job", job=job.id, mean_tokens=mean, longest=longest), row


def _of_histogram(
    bins: Sequence[float], counts: Sequence[int], longest: float, limit: int, choices: int
) -> RowLength:
    """Mean lengths, taking each row to be as long as the middle of its bin.

    All choices of a row are taken to be as long as its longest, whose length was counted.
    """
    edges = np.minimum(np.array([*bins, np.inf]), max(longest, bins[0] + 1))
    middles = np.minimum((edges[:-1] + edges[1:]) / 2, limit)
    weights = np.array(counts) / max(1, sum(counts))
    tokens, squares = weights @ middles, weights @ middles**2
    return RowLength(float(tokens) * choices, float(squares) * choices)
