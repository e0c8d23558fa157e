"""Models: what a checkpoint is, read from its config and headers alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.api.deps import ServiceDep
from app.api.example_answers import MODEL, answers
from app.errors import NotFound
from surgery.errors import ModelNotFound
from surgery.models.source.resolve import inspect_model, resolve_model
from surgery.schemas.enums import Granularity
from surgery.schemas.resolved import ModelInfo

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get(
    "/{model_id:path}", summary="Describe a model's layers", responses=answers(MODEL, 404, 422, 503)
)
def get_model(
    service: ServiceDep,
    model_id: Annotated[
        str, Path(max_length=300, description="`owner/name`, with an optional `@revision`.")
    ],
    granularity: Annotated[
        Granularity,
        Query(description="Also list the parts that a selection chooses among."),
    ] = Granularity.LAYER,
) -> ModelInfo:
    """Architecture, layer names and sizes. No weight is read and no code of the model runs."""
    sources = service.settings.sources
    try:
        info = inspect_model(resolve_model(model_id, sources), sources)
    except ModelNotFound as error:
        raise NotFound(error.detail) from error
    asked = {kind: parts for kind, parts in info.parts.items() if kind is granularity}
    return info.model_copy(update={"parts": asked})
