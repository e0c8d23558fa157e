"""The tools that look at models, datasets and costs, and change nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from surgeon.agents.answers import Datasets, Models, Preset, StoredDataset
from surgeon.agents.arguments import Dataset, Json, Model, Selection, Training, in_path, merged
from surgeon.agents.failures import tool_failures
from surgeon.client import AsyncClient
from surgeon.client.answers import parsed
from surgery.schemas.data.preview import Preview
from surgery.schemas.jobs.comparison import ComparisonSpec
from surgery.schemas.jobs.estimate import Estimate, EstimateSpec
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.prediction import PredictionSpec
from surgery.schemas.jobs.ranking import RankingSpec
from surgery.schemas.jobs.search import SearchSpec
from surgery.schemas.resolved import ModelInfo

REQUESTS: dict[str, type[BaseModel]] = {
    "rank_layers": RankingSpec,
    "fine_tune": FinetuneSpec,
    "search_layers": SearchSpec,
    "compare": ComparisonSpec,
    "predict": PredictionSpec,
    "estimate_cost": EstimateSpec,
}
Sending = Literal[
    "rank_layers", "fine_tune", "search_layers", "compare", "predict", "estimate_cost"
]


class Reading:
    """Tools that read. ``client`` speaks to the service."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list_models(self) -> Models:
        """List the language encoders at hand, whose layers can be ranked and trained.

        Where `hub` is true, the id of any encoder on the Hugging Face Hub can be named as well.
        """
        with tool_failures():
            found = await self._client.call("GET", "/v1/models")
        return Models(models=[each["id"] for each in found["data"]], hub=found["hub"])

    async def describe_model(self, model: Model) -> ModelInfo:
        """Describe a model: its architecture, and the names and sizes of its layers.

        The layers are listed bottom to top: the first is nearest to the text, the last to the
        answer.
        """
        with tool_failures():
            found = await self._client.call("GET", f"/v1/models/{in_path(model)}")
            return parsed(ModelInfo, found)

    async def list_datasets(
        self,
        name: Annotated[str | None, Field(description="Only stored datasets of this name.")] = None,
        limit: Annotated[int, Field(ge=1, le=200, description="At most so many stored.")] = 20,
    ) -> Datasets:
        """List the datasets that other tools take: stored ones, newest first, and presets.

        A file is stored with `surgeon upload FILE` in a shell, which checks every row.
        """
        with tool_failures():
            stored = await self._client.datasets(limit, name)
            presets = (await self._client.call("GET", "/v1/tasks"))["data"]
            return Datasets(
                stored=[StoredDataset.of(each) for each in stored],
                presets=[parsed(Preset, each) for each in presets],
            )

    async def preview_dataset(
        self,
        dataset: Annotated[str, Field(description="The id of a stored dataset (`ds_…`).")],
        model: Model,
        split: Literal["train", "validation"] = "train",
        rows: Annotated[int, Field(ge=1, le=20, description="How many rows are shown.")] = 3,
        max_length: Annotated[int, Field(ge=4, le=8192, description="Tokens kept of a row.")] = 128,
    ) -> Preview:
        """Show the first rows of a stored dataset as a model reads them, and how long rows are.

        Use it to check the columns, the labels and `max_length` before anything is trained.
        """
        wanted = {"model": model, "split": split, "limit": rows, "max_length": max_length}
        with tool_failures():
            path = f"/v1/datasets/{in_path(dataset)}/preview"
            return parsed(Preview, await self._client.call("POST", path, params=wanted))

    async def estimate_cost(
        self,
        model: Model,
        dataset: Dataset,
        selection: Selection | None = None,
        training: Training | None = None,
        k: Annotated[
            list[int] | None, Field(description="Numbers of layers to compare; default: all.")
        ] = None,
        options: Annotated[
            Json | None, Field(description="Further fields: see `request_fields`.")
        ] = None,
    ) -> Estimate:
        """Estimate parameters, memory and seconds of fine-tunes, for each number of layers.

        Nothing runs and nothing is submitted. Seconds are null until the service has measured how
        fast its device is; `throughput` says what they are based on.
        """
        given = {"selection": selection, "training": training, "k": k}
        body = merged({"model": model, "dataset": dataset, **given}, options)
        with tool_failures():
            answer = await self._client.call("POST", "/v1/estimates", json=body)
            return parsed(Estimate, answer)

    async def request_fields(
        self, tool: Annotated[Sending, Field(description="The tool that sends the request.")]
    ) -> Json:
        """List every field of the request that a tool sends, as a JSON Schema.

        Fields that are no arguments of the tool go into its `options`.
        """
        return REQUESTS[tool].model_json_schema()
