"""The tools that submit jobs: first a dry run, and the job itself once it is confirmed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from surgeon.agents.answers import JobLine
from surgeon.agents.arguments import (
    Arms,
    Confirm,
    Dataset,
    FinetuneFields,
    Json,
    Model,
    Name,
    RankingFields,
    SearchFields,
    Selection,
    Training,
    merged,
)
from surgeon.agents.failures import tool_failures
from surgeon.agents.plans import Plan, planned
from surgeon.client import AsyncClient
from surgeon.client.answers import parsed
from surgery.schemas.answers.job import DryRun

CONFIRM = (
    "Nothing was submitted. Tell whoever you work for what it would do and take and, if they "
    "agree, call this tool again with the same arguments and confirm=true."
)
WATCH = "Submitted. Call wait_for_job with its id, again until finished is true."
KNOWN = "The service had this result already. Call job_status with the job's id to see it."


class Submission(BaseModel):
    """What a call would do or, if it was confirmed, the job that it has submitted."""

    submitted: bool = Field(description="Whether a job was submitted.")
    dry_run: Plan | None = Field(description="What would be submitted; null if a job was.")
    job: JobLine | None = Field(description="The job; null if none was submitted.")
    next: str = Field(description="What to do now.")


class Submitting:
    """Tools that submit. ``client`` speaks to the service."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def rank_layers(
        self,
        model: Model,
        dataset: Dataset,
        options: RankingFields | None = None,
        name: Name = None,
        confirm: Confirm = False,
    ) -> Submission:
        """Rank a model's layers by how much they matter to a dataset, with Fisher information.

        The result says which layers to fine-tune, how many, and how far the order can be trusted.
        Without confirm=true it only checks the request; nothing runs.
        """
        body = merged({"model": model, "dataset": dataset, "name": name}, options)
        return await self._submission("rankings", body, confirm=confirm)

    async def fine_tune(
        self,
        model: Model,
        dataset: Dataset,
        selection: Selection | None = None,
        training: Training | None = None,
        options: FinetuneFields | None = None,
        name: Name = None,
        confirm: Confirm = False,
    ) -> Submission:
        """Fine-tune chosen layers of a model, and its head, on a dataset; all others stay frozen.

        Policies that choose by scores take the id of a ranking (`ranking`), or compute one first.
        Without confirm=true it only checks the request and estimates what it takes; nothing runs.
        """
        given = {"selection": selection, "training": training, "name": name}
        body = merged({"model": model, "dataset": dataset, **given}, options)
        return await self._submission("finetunes", body, confirm=confirm)

    async def search_layers(
        self,
        model: Model,
        dataset: Dataset,
        training: Training | None = None,
        options: SearchFields | None = None,
        name: Name = None,
        confirm: Confirm = False,
    ) -> Submission:
        """Search for the layers that learn a dataset best, and their rate, by short training runs.

        It costs more than a ranking, and needs no trust in scores. Without confirm=true it only
        checks the request and estimates what it takes; nothing runs.
        """
        given = {"training": training, "name": name}
        body = merged({"model": model, "dataset": dataset, **given}, options)
        return await self._submission("searches", body, confirm=confirm)

    async def compare(
        self,
        model: Model,
        dataset: Dataset,
        arms: Arms,
        seeds: Annotated[
            list[int] | None, Field(description="Each arm trains once with each; three at least.")
        ] = None,
        training: Training | None = None,
        options: Annotated[
            Json | None, Field(description="Further fields: see `request_fields`.")
        ] = None,
        name: Name = None,
        confirm: Confirm = False,
    ) -> Submission:
        """Compare several ways to train on the same data and seeds, and decide which to take.

        It runs a fine-tune for each arm and seed. Learning rates matter more than layers: give
        each arm `learning_rates` to choose from. Without confirm=true it only checks the request;
        nothing runs.
        """
        given = {"arms": arms, "seeds": seeds, "training": training, "name": name}
        body = merged({"model": model, "dataset": dataset, **given}, options)
        return await self._submission("comparisons", body, confirm=confirm)

    async def _submission(self, collection: str, body: Json, *, confirm: bool) -> Submission:
        with tool_failures():
            if confirm:
                job = JobLine.of(await self._client.submit(collection, body))
                advice = KNOWN if job.finished else WATCH
                return Submission(submitted=True, dry_run=None, job=job, next=advice)
            checked = await self._client.call(
                "POST", f"/v1/{collection}", params={"validate_only": "true"}, json=body
            )
            plan = await planned(self._client, parsed(DryRun, checked))
        return Submission(submitted=False, dry_run=plan, job=None, next=CONFIRM)
