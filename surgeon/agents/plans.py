"""What a submission would do and take, told before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Field

from surgeon.client import ApiError, AsyncClient
from surgery.schemas import JobWarning
from surgery.schemas.answers.job import DryRun
from surgery.schemas.jobs.comparison import ArmSpec
from surgery.schemas.jobs.estimate import Estimate, EstimateRow

Json = dict[str, Any]


class PlannedArm(BaseModel):
    """One way to train that a comparison would carry out."""

    name: str = Field(description="The arm's name.")
    trains: str = Field(description="How its layers are chosen, or its adapter.")
    layers: list[str] | None = Field(description="Its layers; null until they are chosen.")
    same_as: str | None = Field(description="The arm whose runs are its own, too.")
    seconds: float | None = Field(
        description="What a run of it would take at most, without loading the model; null if that "
        "is not known."
    )
    peak_memory_bytes: int | None = Field(description="The most memory that a run would need.")


class Plan(BaseModel):
    """What a submission would do, which was checked and not carried out."""

    model: str = Field(description="The model, pinned to its revision if it has one.")
    dataset: str = Field(description="The dataset's id.")
    rows: dict[str, int | None] = Field(description="Rows by split; null where not yet known.")
    stored_answer: bool = Field(
        description="Whether an equal job has been computed, which answers at once."
    )
    layers: list[str] | None = Field(
        description="The layers that would train; null if a job chooses them, or trains none."
    )
    estimate: Estimate | None = Field(
        description="What a fine-tune or a search would take; null for rankings, which the service "
        "does not estimate, and for comparisons, see `arms`."
    )
    arms: list[PlannedArm] = Field(description="Of a comparison: its ways to train.")
    runs: int | None = Field(description="Of a comparison: how many fine-tunes it would run.")
    seconds: float | None = Field(
        description="Of a comparison: what all its runs would take at most, one after the other; "
        "null if that of any arm is not known."
    )
    warnings: list[JobWarning] = Field(description="What was noticed about the request.")
    spec: Json = Field(description="The request with every default filled in.")


async def planned(client: AsyncClient, dry: DryRun) -> Plan:
    """The plan that a dry run tells; of a comparison, with estimates of its arms."""
    resolved = dry.resolved
    model, dataset = resolved["model"], resolved["dataset"]
    revision = f"@{model['revision']}" if model.get("revision") else ""
    arms = [
        await _planned_arm(client, dry.spec, body, arm)
        for body, arm in _bodies(dry.spec, resolved.get("arms") or [])
    ]
    return Plan(
        model=f"{model['id']}{revision}",
        dataset=dataset["id"],
        rows=dataset["rows"],
        stored_answer=dry.cached,
        layers=resolved.get("layers"),
        estimate=dry.estimate,
        arms=arms,
        runs=resolved.get("runs"),
        seconds=_total(arms, dry.spec.get("seeds") or []),
        warnings=dry.warnings,
        spec=dry.spec,
    )


def _bodies(spec: Json, arms: Sequence[Json]) -> Iterator[tuple[Json, Json]]:
    """What an estimate of each arm would be asked with, and the arm."""
    given = {each["name"]: ArmSpec.model_validate(each) for each in spec.get("arms") or []}
    for arm in arms:
        own = given.get(arm["name"])
        if own is None:  # of `single_layers`
            selection = {"policy": "layers", "layers": arm["layers"]}
            yield {"selection": selection, "training": spec["training"]}, arm
            continue
        trains = (
            {"selection": own.selection.model_dump(mode="json", exclude_unset=True)}
            if own.adapter is None
            else {"adapter": own.adapter.model_dump(mode="json")}
        )
        yield {**trains, "training": {**spec["training"], **own.changed()}}, arm


async def _planned_arm(client: AsyncClient, spec: Json, body: Json, arm: Json) -> PlannedArm:
    rows: list[EstimateRow] = []
    if not arm.get("same_as"):
        try:
            asked = {"model": spec["model"], "dataset": spec["dataset"], **body}
            rows = (await client.estimate(**asked)).rows
        except ApiError:  # the comparison itself was accepted: only what it takes stays unknown
            rows = []
    seconds = [row.seconds.total for row in rows if row.seconds is not None]
    memory = [row.peak_memory_bytes for row in rows if row.peak_memory_bytes is not None]
    return PlannedArm(
        name=arm["name"],
        trains=arm.get("adapter") or arm["policy"],
        layers=arm.get("layers"),
        same_as=arm.get("same_as"),
        seconds=max(seconds, default=None),
        peak_memory_bytes=max(memory, default=None),
    )


def _total(arms: Sequence[PlannedArm], seeds: Sequence[int]) -> float | None:
    """The seconds of all runs; None if there are none, or if those of one are not known."""
    own = [arm.seconds for arm in arms if arm.same_as is None]
    known = [seconds for seconds in own if seconds is not None]
    return sum(known) * len(seeds) if own and len(known) == len(own) else None
