"""Comparisons of several ways to train, on the same data and with the same seeds."""

from __future__ import annotations

from app.api.examples.answers import COMPARISON
from app.api.examples.bodies import COMPARISON_BODIES
from app.api.routes.jobs.kinds import KindOfJob
from app.db.tables import JobKind
from app.submissions.comparisons import prepare_comparison
from surgery.schemas.jobs.comparison import ComparisonSpec

DESCRIPTION = """\
Queues one fine-tune for each arm and seed, and tabulates the metrics that they reach.

A ranking that an arm needs is computed once, before the fine-tunes that need it; so is a search,
which all seeds of an arm share. Arms that train the same tensors with the same settings share their
fine-tunes (`same_as`). The result's `decision` says which arm to take. The comparison
is `running` from the start and ends with the last of its children, which
`GET /v1/jobs?parent={id}` lists. It succeeds if any fine-tune did, and lists the others under
`failures`. Cancelling the comparison cancels all its children.
"""

COMPARISONS = KindOfJob(
    kind=JobKind.COMPARISON,
    name="comparison",
    spec=ComparisonSpec,
    prepare=prepare_comparison,
    bodies=COMPARISON_BODIES,
    job=COMPARISON,
    refusals=(400, 413, 415, 503),
    summary="Compare ways to fine-tune a model on a dataset",
    description=DESCRIPTION,
)
router = COMPARISONS.router()
