"""How rows of the database look in answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from app.db.tables import Base, Checkpoint, Dataset
from surgery.schemas.answers.checkpoint import CheckpointView, FileView
from surgery.schemas.answers.dataset import DatasetView

Json = dict[str, Any]


COLLECTION = {
    "ranking": "rankings",
    "finetune": "finetunes",
    "search": "searches",
    "prediction": "predictions",
    "export": "exports",
    "comparison": "comparisons",
}


def _same_fields(view: type[BaseModel], row: Base) -> Json:
    """The fields of a view that its row has under the same names, as they are stored."""
    columns = row.__table__.columns.keys()
    return {name: getattr(row, name) for name in view.model_fields if name in columns}


def checkpoint_view(row: Checkpoint) -> CheckpointView:
    """A checkpoint as it is answered."""
    own = f"/v1/checkpoints/{row.id}"
    files = [
        FileView(name=name, **entry, href=f"{own}/files/{name}")
        for name, entry in row.files.items()
    ]
    return CheckpointView(
        **_same_fields(CheckpointView, row) | {"files": files},
        job=row.job_id,
        links={"self": own, "archive": f"{own}/archive", "job": f"/v1/jobs/{row.job_id}"},
    )


def dataset_view(row: Dataset, note: str | None = None) -> DatasetView:
    """A stored dataset as it is answered."""
    own = {name: getattr(row, name) for name in ("id", "name", "bytes", "created_at")}
    return DatasetView(**row.report | own, note=note)
