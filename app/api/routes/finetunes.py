"""Fine-tunes: train the selected layers and the head."""

from __future__ import annotations

from app.api.example_answers import FINETUNE
from app.api.example_bodies import FINETUNE_BODIES
from app.api.routes.kinds import KindOfJob
from app.submissions.submit import prepare_finetune
from app.tables import Kind
from surgery.schemas.enums import POLICIES, described
from surgery.schemas.finetune import FinetuneSpec

DESCRIPTION = f"""Queue a fine-tune of what `selection` names, and of the head.

`selection.policy` says what trains beside the head:

{described(POLICIES)}

Those that go by a ranking take `ranking`: an id, options, or nothing; what is not there yet is
computed as the job's first phase and kept.

`granularity` chooses among layers, their attention and feed-forward parts, or single tensors.
`resolved` has the names, their scores and the number of parameters that train.
A selection that matches nothing is refused; nothing else ever trains in its place.

A ranking by any method will do. `track_ranking` scores the layers by Fisher information again at
every evaluation and says whether their order stayed what it was.
"""

router = KindOfJob(
    kind=Kind.FINETUNE,
    name="fine-tune",
    spec=FinetuneSpec,
    prepare=prepare_finetune,
    bodies=FINETUNE_BODIES,
    job=FINETUNE,
    refusals=(400, 409, 413, 415, 422, 503),
    summary="Fine-tune selected layers of a model on a dataset",
    description=DESCRIPTION,
).router()
