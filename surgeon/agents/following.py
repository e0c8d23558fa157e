"""The tools that follow jobs, use what came of them, and end them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from surgeon.agents.answers import ComparisonTable, JobLine, Jobs, JobStatus
from surgeon.agents.arguments import Json, in_path
from surgeon.agents.failures import ToolError, tool_failures
from surgeon.client import AsyncClient
from surgeon.client.answers import parsed
from surgery.schemas.enums import Policy
from surgery.schemas.jobs.comparison import ComparisonResult
from surgery.schemas.jobs.prediction import GivenRow

WAIT_SECONDS = 45.0  # clients of the protocol give a call up after a minute, many of them

Job = Annotated[str, Field(description="The id of a job, such as `rk_…`, `ft_…` or `cmp_…`.")]
Seconds = Annotated[
    float, Field(ge=0, le=WAIT_SECONDS, description="How long to wait for its end, at most.")
]


class SelectedLayers(BaseModel):
    """The layers that were chosen, written for a tool."""

    model: str = Field(description="The model.")
    granularity: str = Field(description="What was chosen: layers or parts of them.")
    policy: str | None = Field(None, description="Of a ranking: how they were chosen.")
    k: int | None = Field(None, description="Of a ranking: how many.")
    learning_rate: float | None = Field(None, description="Of a search: the rate to train at.")
    format: str = Field(description="How `selection` is written.")
    selection: Any = Field(description="The choice, as the tool of that format takes it.")
    matches: int | None = Field(description="How many of the model's tensors it stands for.")
    trainable_parameters: int = Field(description="Parameters that were chosen.")
    total_parameters: int | None = Field(description="Parameters of the model.")


class Cancellation(BaseModel):
    """What became of a request to end a job."""

    requested: bool = Field(description="Whether the job was asked to end.")
    job: JobLine = Field(description="The job.")
    next: str = Field(description="What to do now.")


class Following:
    """Tools for jobs. ``client`` speaks to the service."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list_jobs(
        self,
        kind: Literal["ranking", "finetune", "search", "prediction", "comparison"] | None = None,
        status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
        | None = None,
        limit: Annotated[int, Field(ge=1, le=100, description="At most so many.")] = 10,
    ) -> Jobs:
        """List jobs, newest first, without their results."""
        given = {"kind": kind, "status": status, "limit": limit}
        wanted = {field: value for field, value in given.items() if value is not None}
        with tool_failures():
            page = await self._client.call("GET", "/v1/jobs", params=wanted)
            return Jobs(jobs=[JobLine.of(each) for each in page["data"]])

    async def job_status(self, job: Job) -> JobStatus:
        """Tell how far a job is and, when it has finished, what came of it."""
        with tool_failures():
            return JobStatus.of(await self._client.job(in_path(job)))

    async def wait_for_job(self, job: Job, seconds: Seconds = 30.0) -> JobStatus:
        """Wait until a job has ended, some seconds at most, and tell how it stands then.

        If `finished` is false, the job goes on: call this again.
        """
        with tool_failures():
            return JobStatus.of(await self._waited(await self._client.job(in_path(job)), seconds))

    async def selected_layers(
        self,
        job: Annotated[str, Field(description="The id of a ranking or a search.")],
        policy: Annotated[
            Policy | None, Field(description="Of a ranking: how to choose; default `top_k`.")
        ] = None,
        k: Annotated[
            int | None,
            Field(ge=1, description="Of a ranking: how many; default: the recommended k."),
        ] = None,
        format: Annotated[  # noqa: A002  # the service calls it so
            Literal["json", "regex", "peft", "axolotl"],
            Field(description="The tool to write the choice for; `json` is a plain list."),
        ] = "json",
    ) -> SelectedLayers:
        """Tell which layers a finished ranking or search chooses, written for other tools."""
        kind = "searches" if job.startswith("se_") else "rankings"
        given = {"policy": policy, "k": k, "format": format}
        wanted = {field: value for field, value in given.items() if value is not None}
        with tool_failures():
            path = f"/v1/{kind}/{in_path(job)}/selection"
            return parsed(SelectedLayers, await self._client.call("GET", path, params=wanted))

    async def comparison_table(
        self, job: Annotated[str, Field(description="The id of a comparison (`cmp_…`).")]
    ) -> ComparisonTable:
        """Show a finished comparison: its arms side by side, and which one to take."""
        with tool_failures():
            found = await self._client.call("GET", f"/v1/comparisons/{in_path(job)}")
            if found["result"] is None:
                raise ToolError(f"{job} is {found['status']} and has no result; see job_status")
            return ComparisonTable.of(parsed(ComparisonResult, found["result"]))

    async def predict(
        self,
        checkpoint: Annotated[
            str,
            Field(
                description="A checkpoint (`ck_…`), or a fine-tune or comparison, whose best is "
                "taken."
            ),
        ],
        rows: Annotated[
            list[GivenRow],
            Field(
                min_length=1,
                max_length=1000,
                description='The rows, by the columns of the dataset: [{"text": "a fine film"}].',
            ),
        ],
        seconds: Seconds = WAIT_SECONDS,
    ) -> JobStatus:
        """Predict the labels of rows with a trained checkpoint, and wait for the answer.

        It submits a short job, without asking for confirmation. The predictions are in `result`,
        in the order of the rows.
        """
        with tool_failures():
            if not checkpoint.startswith("ck_"):
                checkpoint = await self._client.best_checkpoint(in_path(checkpoint))
            body = {"checkpoint": checkpoint, "rows": rows}
            asked = await self._client.submit("predictions", body)
            return JobStatus.of(await self._waited(asked, seconds))

    async def cancel_job(
        self,
        job: Job,
        confirm: Annotated[
            bool, Field(description="Set it to true only once whoever you work for agrees.")
        ] = False,
    ) -> Cancellation:
        """End a job that has not finished. What it has computed may be lost.

        Without confirm=true it only shows the job.
        """
        with tool_failures():
            if confirm:
                ended = JobLine.of(await self._client.cancel(in_path(job)))
                return Cancellation(requested=True, job=ended, next=ended.next)
            found = JobLine.of(await self._client.job(in_path(job)))
        advice = "Nothing was cancelled. To end the job, call this again with confirm=true."
        if found.finished:
            advice = f"The job has ended already: it {found.status}."
        return Cancellation(requested=False, job=found, next=advice)

    async def _waited(self, job: Json, seconds: float) -> Json:
        """The job at its end, or as it stands after so many seconds."""
        states = [job]
        try:
            async with asyncio.timeout(seconds):
                await self._client.wait(job, states.append)
        except TimeoutError:
            pass
        return states[-1]
