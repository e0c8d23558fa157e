"""What a comparison comes to: which arm to take, and what is not known yet."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

Outcome = Literal["winner", "shortlist", "undecided", "ceiling", "baseline", "one_way"]


class Needed(BaseModel):
    """How much more would tell two arms apart four times out of five.

    It is computed as if they differed by as much as was measured, and as much from seed to seed.
    """

    seeds: int | None = Field(
        description="Seeds in all, on the same validation rows; null if no number of them would."
    )
    validation_rows: int | None = Field(
        description="Validation rows in all, with the same seeds; null if no number of them would, "
        "and if it is not known how many there were."
    )
    together: bool = Field(
        False, description="Whether it takes both: so many seeds, on so many validation rows."
    )


class AgainstBest(BaseModel):
    """An arm beside the best one."""

    arm: str = Field(description="The arm's name.")
    difference: float | None = Field(
        description="By how much the best arm's metric is higher, a mean paired by seed; null if "
        "the two have no seed in common."
    )
    p_value: float | None = Field(
        description="How often arms that do not differ come out as far apart. It allows for what "
        "differs from seed to seed and for the choice of the validation rows, and is adjusted for "
        "the best arm being found by the same numbers. Null with fewer than two seeds in common."
    )
    told_apart: bool = Field(
        description="Whether the arm is worse than the best one beyond chance: `p_value` is at "
        "most `error_rate`."
    )
    needed: Needed | None = Field(
        None,
        description="What would tell them apart; null if they are, if the spread from seed to seed "
        "is unknown, and if they are as good as equal.",
    )


class Decision(BaseModel):
    """Which arm to take."""

    outcome: Outcome = Field(
        description="`winner`: the best arm is better than every other. `shortlist`: better than "
        "some. `undecided`: than none. `ceiling`: every arm is as good as the metric allows. "
        "`baseline`: no arm is better than the same answer for every row. `one_way`: only one way "
        "to train has a result."
    )
    best: str | None = Field(
        description="The arm with the highest mean; of equal ones the cheapest. Null if no run has "
        "a value."
    )
    not_told_apart: list[str] = Field(
        description="The arms that may be as good as the best one. Arms that share its runs are "
        "not listed."
    )
    cheapest: str | None = Field(
        description="The arm to take: of the best arm and those not told apart from it, the one "
        "whose runs trained for the fewest seconds, choosing the rate included."
    )
    relative_cost: dict[str, float] = Field(
        description="Its `seconds`, `trainable_parameters` and `peak_memory_bytes`, each over that "
        "of the best arm."
    )
    job: str | None = Field(
        description="The run of `cheapest` with the highest metric, by the same validation rows; "
        "null if no arm is worth taking (`baseline`)."
    )
    checkpoint: str | None = Field(
        description="Its best checkpoint; null also if that was not kept."
    )
    others: list[AgainstBest] = Field(
        description="Every other arm that has a value, beside the best one."
    )
    baseline: float | None = Field(
        description="What the same answer for every row reaches; null if it is unknown."
    )
    error_rate: float = Field(
        description="How often arms that do not differ are said to have a winner, at most, and how "
        "often an arm that is as good as any is told apart as worse, at most."
    )
    summary: str = Field(description="The decision in words.")
