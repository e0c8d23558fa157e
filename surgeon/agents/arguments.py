"""What tools take: documented by the models of the requests, and checked by the service.

A tool lists the fields of a request that matter most, because a language model reads the schemas
of all tools before it asks anything. The service knows the others too: `request_fields` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from surgeon.agents.failures import ToolError
from surgery.schemas.jobs.comparison import ArmSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import RankingSpec
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.jobs.selection import SelectionSpec
from surgery.schemas.options.training import TrainingSpec

Json = dict[str, Any]


class Shown:
    """Documents a JSON object by some fields of a request's model, without checking it.

    ``others`` are fields whose type is shown in another, shorter way.
    """

    def __init__(self, model: type[BaseModel], *names: str, **others: Any) -> None:
        fields = {name: model.model_fields[name] for name in (*names, *others)}
        shown: dict[str, Any] = {
            name: (others.get(name, field.annotation), field) for name, field in fields.items()
        }
        more = ConfigDict(extra="allow")
        self._model = create_model(f"{model.__name__}Fields", __config__=more, **shown)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema of these fields."""
        return handler(self._model.__pydantic_core_schema__)


Model = Annotated[
    str,
    Field(
        description="Hugging Face model id, `owner/name` or `name`, with an optional `@revision`. "
        "`list_models` has those at hand."
    ),
]
Dataset = Annotated[
    str | Json,
    Field(
        description="A preset's name (`glue/cola`), a stored dataset's id (`ds_…`), both from "
        '`list_datasets`, or a dataset of the Hub, such as {"hub": "owner/name", "columns": '
        '{"text": "sentence", "label": "label"}}.'
    ),
]
Selection = Annotated[
    Json,
    Shown(
        SelectionSpec,
        *("policy", "k", "share", "max_parameters", "layers", "include"),
        ranking=str | None,
        search=str | None,
    ),
    Field(
        description="Which layers train; the head always does. The top two of a ranking are "
        '{"policy": "top_k", "k": 2, "ranking": "rk_…"}.'
    ),
]
Training = Annotated[
    Json,
    Shown(
        TrainingSpec,
        *("epochs", "max_steps", "learning_rate", "batch_size", "max_length", "seed"),
        learning_rates=list[float] | None,
    ),
]
Arms = Annotated[
    list[
        Annotated[
            Json,
            Shown(
                ArmSpec,
                *("learning_rate", "adapter"),
                name=str,
                selection=Selection,
                learning_rates=list[float] | None,
            ),
        ]
    ],
    Field(description="The ways to train, each with a name and a `selection` or an `adapter`."),
]
RankingFields = Annotated[
    Json,
    Shown(
        RankingSpec,
        *("method", "samples", "granularity", "adaptive", "minus", "max_length", "seed", "cache"),
    ),
]
FinetuneFields = Annotated[
    Json, Shown(FinetuneSpec, "adapter", "continue_from", "track_ranking", "processes")
]
SearchFields = Annotated[
    Json, Shown(SearchSpec, "families", "budget_seconds", "budget_share", "confidence", "seed")
]
Confirm = Annotated[
    bool,
    Field(
        description="Leave it false to be told what would happen and what it would take: nothing "
        "is submitted. Set it to true only once whoever you work for agrees."
    ),
]
Name = Annotated[str | None, Field(description="A name for the job, which lists show.")]


def in_path(name: str) -> str:
    """A name or an id as a part of a request's path, which it cannot lead elsewhere.

    Raises ToolError for one that would.
    """
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise ToolError(f"{name[:100]!r} is the name or the id of nothing")
    return quote(name, safe="/@")


def merged(named: Mapping[str, Any], options: Mapping[str, Any] | None) -> Json:
    """The body of a request: the arguments that were given, and further fields.

    Raises ToolError if a field is in both.
    """
    given = {name: value for name, value in named.items() if value is not None}
    twice = sorted(given.keys() & (options or {}).keys())
    if twice:
        raise ToolError(f"{', '.join(twice)}: in the arguments and in options; name it once")
    return {**given, **(options or {})}
