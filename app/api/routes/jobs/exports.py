"""Exports: a checkpoint's model, handed over to a place outside its fine-tune."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from app.api.deps import CheckpointDep, ServiceDep
from app.api.examples.answers import EXPORT, body_examples
from app.api.examples.bodies import EXPORT_BODIES
from app.api.http.access.auditing import ChangeDep
from app.api.http.idempotency import KeyDep
from app.api.routes.jobs.kinds import KindOfJob, ValidateOnly, answer_submission
from app.db.tables import JobKind
from app.submissions.submit import prepare_export
from surgery.schemas.jobs.export import ExportRequest, ExportSpec

DESCRIPTION = """Queues the hand-over of a checkpoint's model to a place outside its fine-tune, by a
worker and without a GPU. `to` says where, and `target` under which name:

- `folder`: a folder `exports/{project}/{target}` of the service's object store, for whoever serves
  models from there. It goes with the export's job: deleting that deletes the folder.

- `mlflow`: a version of the registered model `target`, on the MLflow run of the fine-tune. It loads
  with `mlflow.pyfunc` and predicts as the worker measured. The labels of fine-tune and export are
  its tags.

- `hub`: one commit in the repository `target` (`owner/name`) of the Hugging Face Hub, on the branch
  `revision`. The repository is made if it does not exist, and is private unless `private` is false.
  The token is the worker's own; no request carries one.

`form` is `full`, a plain transformers folder, or the form in which the checkpoint is stored.
`manifest.json` has size and SHA-256 of every file.

Where no worker can reach a destination, the request is refused. What is handed over is there as a
whole or not at all, also after a crash. The same content again under the same name writes nothing
and succeeds with `created` false; other content under a folder's name fails with `export_refused`,
is a new version at MLflow, and a new commit on the Hub. Until the export has ended, its checkpoint
is neither dropped nor deleted.
"""


def create_export(
    row: CheckpointDep,
    service: ServiceDep,
    asked: Annotated[ExportRequest, body_examples(EXPORT_BODIES)],
    key: KeyDep,
    change: ChangeDep,
    validate_only: ValidateOnly = False,
) -> Response:
    """Queue an export of the checkpoint that the path names."""
    spec = ExportSpec(**asked.model_dump(), checkpoint=row.id)
    prepared = prepare_export(service, spec)
    return answer_submission(service, prepared, spec, key, change, dry=validate_only)


EXPORTS = KindOfJob(
    kind=JobKind.EXPORT,
    name="export",
    spec=ExportSpec,
    prepare=prepare_export,
    bodies=EXPORT_BODIES,
    job=EXPORT,
    refusals=(400, 404, 413, 415, 503),
    summary="Export a checkpoint",
    description=DESCRIPTION,
    path="/v1/checkpoints/{checkpoint_id}/exports",
    submission=create_export,
)
router = EXPORTS.router()
