"""Comparisons: several ways to train, on the same data and seeds."""

from __future__ import annotations

from app.api.example_answers import COMPARISON, COMPARISON_BODIES
from app.api.routes.kinds import KindOfJob
from app.submissions.comparisons import prepare_comparison
from app.tables import Kind
from surgery.schemas.comparison import ComparisonSpec

DESCRIPTION = """\
Run each arm with each seed, as fine-tunes of their own, and tabulate what they reached.

Rankings that arms go by are computed once, before the arms that need them. The comparison is
running from the start and ends with its last child; `GET /v1/jobs?parent={id}` lists them.
It succeeds when any run did, with the others under `failures`; cancelling it cancels them all.
"""

router = KindOfJob(
    kind=Kind.COMPARISON,
    name="comparison",
    spec=ComparisonSpec,
    prepare=prepare_comparison,
    bodies=COMPARISON_BODIES,
    job=COMPARISON,
    refusals=(400, 413, 415, 422, 503),
    summary="Compare ways to fine-tune a model on a dataset",
    description=DESCRIPTION,
).router()
