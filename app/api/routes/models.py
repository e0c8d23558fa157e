"""Models, described from their config and the headers of their weights."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.api.deps import ServiceDep
from app.api.examples.answers import MODEL, answers
from app.errors import NotFound
from surgery.errors import ModelNotFound
from surgery.models.source.resolve import inspect_model, resolve_model
from surgery.schemas.enums import Granularity
from surgery.schemas.resolved import ModelInfo

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get(
    "/{model_id:path}", summary="Describe a model's layers", responses=answers(MODEL, 404, 503)
)
def get_model(
    service: ServiceDep,
    model_id: Annotated[
        str,
        Path(
            max_length=300,
            description="A Hugging Face model id, `owner/name` or `name`, with an optional "
            "`@revision`.",
        ),
    ],
    granularity: Annotated[
        Granularity,
        Query(
            description="`sublayer` or `tensor` also lists, under `parts`, the parts of the layers "
            "that a selection of this granularity chooses among."
        ),
    ] = Granularity.LAYER,
) -> ModelInfo:
    """Answers the model's architecture and the names and sizes of its layers.

    Only the config and the headers of the weights are read, and no code of the model runs.
    """
    sources = service.settings.sources
    try:
        info = inspect_model(resolve_model(model_id, sources), sources)
    except ModelNotFound as error:
        raise NotFound(error.detail) from error
    listed = {kind: parts for kind, parts in info.parts.items() if kind is granularity}
    return info.model_copy(update={"parts": listed})
