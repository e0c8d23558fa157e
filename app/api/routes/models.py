"""Models, described from their config and the headers of their weights."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from app.api.deps import ServiceDep
from app.api.examples.answers import MODEL, MODELS, answers
from app.errors import NotFound
from surgery.errors import ModelNotFound
from surgery.models.source.known import MOST_LISTED, mirrored_models
from surgery.models.source.resolve import inspect_model, resolve_model
from surgery.schemas.enums import Granularity
from surgery.schemas.resolved import ModelInfo

router = APIRouter(prefix="/v1/models", tags=["models"])


class MirroredModel(BaseModel):
    """A model of the mirrors."""

    id: str = Field(description="The model's id, which requests take as `model`.")


class ModelList(BaseModel):
    """The models at hand, and whether there are more."""

    data: list[MirroredModel] = Field(
        description=f"The models of the mirrors in alphabetical order, at most {MOST_LISTED}."
    )
    hub: bool = Field(
        description="Whether any supported model of the Hugging Face Hub can be named, too; false "
        "where the service runs offline."
    )


@router.get("", summary="List the models at hand", responses=answers(MODELS))
def get_models(service: ServiceDep) -> ModelList:
    """Lists the models that lie in the service's mirrors.

    A folder is listed if it holds a config; whether its model is an encoder that can be ranked is
    told when it is described. Models that only the Hub has are not listed.
    """
    sources = service.settings.sources
    found = [MirroredModel(id=each) for each in mirrored_models(sources)]
    return ModelList(data=found, hub=not sources.offline)


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
