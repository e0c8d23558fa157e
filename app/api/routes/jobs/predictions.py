"""Predictions: what a checkpoint says about rows that a request brings along."""

from __future__ import annotations

from app.api.examples.answers import PREDICTION
from app.api.examples.bodies import PREDICTION_BODIES
from app.api.routes.jobs.kinds import KindOfJob
from app.db.tables import JobKind
from app.submissions.submit import prepare_prediction
from surgery.schemas.jobs.prediction import MAX_ROWS, PredictionSpec

DESCRIPTION = f"""Queues the question what a checkpoint predicts for up to {MAX_ROWS:,} rows, so
that it can be tried before it is downloaded. With `Prefer: wait=30` the answer is the finished job,
if it ends within that time.

A row is an object with the columns of the checkpoint's dataset that the model reads, under the
names that they have there: `{{"sentence": "…"}}` for `glue/cola`. A dataset whose rows a preset
builds from several columns takes the built ones, `text` and `text_pair`. Every row is checked
before anything is queued, and an error names the row and the column. Columns that the model does
not read are ignored, so that labelled rows can be sent as they are.

The result has an entry for each row: the most probable label and the `top` probabilities; for
several labels a row those that reach the checkpoint's thresholds; for regression a value; for token
classification a label for each word, with null for words beyond the checkpoint's `max_length`. They
are computed as the checkpoint's own metrics were. The rows are kept with the job, shown in no
answer, and deleted with it. Lists of jobs leave the results of predictions out.
"""

PREDICTIONS = KindOfJob(
    kind=JobKind.PREDICTION,
    name="prediction",
    spec=PredictionSpec,
    prepare=prepare_prediction,
    bodies=PREDICTION_BODIES,
    job=PREDICTION,
    refusals=(400, 413, 415, 503),
    summary="Predict with a checkpoint",
    description=DESCRIPTION,
)
router = PREDICTIONS.router()
