"""Fine-tunes, which train the selected layers and the head."""

from __future__ import annotations

from app.api.examples.answers import FINETUNE
from app.api.examples.bodies import FINETUNE_BODIES
from app.api.routes.jobs.kinds import KindOfJob
from app.db.tables import JobKind
from app.submissions.submit import prepare_finetune
from surgery.schemas.enums import POLICIES, described
from surgery.schemas.jobs.finetune import FinetuneSpec

DESCRIPTION = f"""Queues a fine-tune of the selected layers and of the head.

`selection.policy` says which layers train beside the head:

{described(POLICIES)}

A policy that needs a ranking takes `selection.ranking`: the id of a ranking, the options of one,
or nothing for the default ranking. If that ranking has not been computed yet, the job computes it
first and stores it as a ranking of its own. A ranking by any method can be used.

Policy `search` takes `selection.search`: the id of a finished search, the options of one, or
nothing for the default options. A search without an id runs as the first phase of the job and is
stored as a search of its own. The learning rate is the one that the search found.

`selection.granularity` says whether whole layers are chosen, their attention and feed-forward
parts, or single tensors. The job's `resolved` has the names that were chosen, their scores and
the number of parameters that train. A selection that matches nothing is refused.

With `track_ranking`, every evaluation scores the layers by Fisher information again and reports
how far their order has changed.
"""

FINETUNES = KindOfJob(
    kind=JobKind.FINETUNE,
    name="fine-tune",
    spec=FinetuneSpec,
    prepare=prepare_finetune,
    bodies=FINETUNE_BODIES,
    job=FINETUNE,
    refusals=(400, 409, 413, 415, 503),
    summary="Fine-tune selected layers of a model on a dataset",
    description=DESCRIPTION,
)
router = FINETUNES.router()
