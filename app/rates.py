"""What finished jobs measured: how fast workers are, and how long a dataset's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import select

from app.db import Database
from app.tables import Job, Kind, Status
from surgery.estimate_spec import LengthBasis, ThroughputBasis
from surgery.work import RowLength

Json = dict[str, Any]
NEWEST = 50  # finished fine-tunes that are looked at
TOKENS_PER_WORD = 1.25  # median of MiniLM's on the presets: python -m bench.estimates --words
SPECIAL_TOKENS = 2  # a row's first and last


def _newest(database: Database, *where: Any) -> Sequence[Job]:
    query = select(Job).where(Job.status == Status.SUCCEEDED, *where)
    with database.read() as session:
        return session.scalars(query.order_by(Job.finished_at.desc()).limit(NEWEST)).all()


def measured_rate(
    database: Database, fingerprint: str, precision: str | None
) -> tuple[ThroughputBasis | None, int | None]:
    """Operations a second on the device of the newest fine-tune, and what its process held.

    From fine-tunes of this model in this precision where there are any, else of other models.
    Where the question leaves the precision open, it is what a worker last chose on that device.
    """
    jobs = [
        job
        for job in _newest(database, Job.kind == Kind.FINETUNE)
        if job.result and job.result.get("throughput") and job.result["processes"] == 1
    ]
    if not jobs:
        return None, None
    newest = jobs[0].result["throughput"]  # type: ignore[index]
    device, process = newest["device"], newest["process_bytes"]
    precision = precision or _chosen_precision(jobs, device)
    alike = [
        (job, told)
        for job in jobs
        if (told := job.result["throughput"])["device"] == device  # type: ignore[index]
        and told["precision"] == precision
    ]
    own = [told for job, told in alike if job.resolved["model"]["fingerprint"] == fingerprint]
    used = own or [told for _, told in alike]
    seconds = sum(told["seconds"] for told in used)
    if not seconds:
        return None, process
    basis = ThroughputBasis(
        basis="measured on this model" if own else "measured on other models of this device",
        device=device,
        precision=precision,
        operations_per_second=sum(told["operations"] for told in used) / seconds,
        jobs=len(used),
    )
    return basis, process


def _chosen_precision(jobs: Sequence[Job], device: str) -> str:
    """Of the newest fine-tune on a device that left its precision to the worker; else fp32."""
    for job in jobs:
        told = job.result["throughput"]  # type: ignore[index]
        if told["device"] == device and job.spec["training"].get("precision") is None:
            return str(told["precision"])
    return "fp32"


def row_lengths(
    database: Database, model: Json, dataset: Json, words: Json | None, limit: int, choices: int
) -> tuple[LengthBasis, RowLength | None]:
    """Tokens of a training row cut at ``limit``: as a job counted them, else by the words."""
    where = (Job.model == model["id"], Job.dataset == dataset["id"])
    for job in _newest(database, *where):
        pinned, result = job.resolved, job.result or {}
        same = all(
            pinned[part]["fingerprint"] == given["fingerprint"]
            for part, given in (("model", model), ("dataset", dataset))
        )
        if same and result.get("lengths"):
            return _counted(job, result, limit, choices)
    if words is None:
        unknown = LengthBasis(source="unknown", mean_tokens=None, longest=limit)
        return unknown, None
    bins = [count * TOKENS_PER_WORD + SPECIAL_TOKENS for count in words["bins"]]
    longest = round(words["longest"] * TOKENS_PER_WORD) + SPECIAL_TOKENS
    row = _of_histogram(bins, words["train"], longest, limit, choices)
    basis = LengthBasis(
        source="words", tokens_per_word=TOKENS_PER_WORD, mean_tokens=round(row.tokens, 2),
        longest=min(longest, limit),
    )  # fmt: skip
    return basis, row


def _counted(job: Job, result: Json, limit: int, choices: int) -> tuple[LengthBasis, RowLength]:
    lengths, told = result["lengths"], result.get("throughput")
    options = job.spec.get("training") or job.spec
    if told and options["max_length"] == limit:
        row = RowLength(told["mean_tokens"], told["mean_squares"])
    else:
        row = _of_histogram(lengths["bins"], lengths["counts"], lengths["longest"], limit, choices)
    basis = LengthBasis(
        source="job", job=job.id, mean_tokens=round(row.tokens, 2),
        longest=min(lengths["longest"], limit),
    )  # fmt: skip
    return basis, row


def _of_histogram(
    bins: Sequence[float], counts: Sequence[int], longest: float, limit: int, choices: int
) -> RowLength:
    """Means where each row is as long as the middle of its bin; every choice as the longest."""
    edges = np.minimum(np.array([*bins, np.inf]), max(longest, bins[0] + 1))
    middles = np.minimum((edges[:-1] + edges[1:]) / 2, limit)
    weights = np.array(counts) / max(1, sum(counts))
    tokens, squares = weights @ middles, weights @ middles**2
    return RowLength(float(tokens) * choices, float(squares) * choices)
