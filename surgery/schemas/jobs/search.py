"""The request for a search over layers and learning rates, and its result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from surgery.schemas import JobWarning, Strict
from surgery.schemas.fields import options_of
from surgery.schemas.jobs.ranking import Submission
from surgery.schemas.options.training import TrainingSpec

Family = Literal["single", "pairs", "runs", "all"]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class SearchOptions(Strict):
    """How layers and a learning rate are searched for, the same wherever a search is requested."""

    families: Annotated[list[Family], Field(max_length=4)] = Field(
        ["single", "pairs", "runs", "all"],
        min_length=1,
        description="Which sets of layers are candidates: each layer alone, each pair, each run of "
        "three or more neighbouring layers, and all layers.",
    )
    learning_rates: Annotated[list[Rate], Field(max_length=8)] = Field(
        [1e-4, 3e-4, 1e-3],
        min_length=1,
        description="The learning rates that every candidate may train at.",
    )
    budget_seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Worker seconds that the search may spend, with the head, the scores and the "
        "stored states that it needs before it can try anything. Where these take all of it, one "
        "short run is made nevertheless, and a warning says so. Default: `budget_share` of what "
        "training each layer alone once is measured to cost.",
    )
    budget_share: float = Field(
        0.35,
        gt=0,
        le=10,
        description="The budget as a share of the cost of training each layer alone once, on all "
        "rows for all epochs. Means nothing with `budget_seconds`.",
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="The search stops early once the best candidate is better than every other one "
        "at this confidence, corrected for looking again and again.",
    )
    held_out: float = Field(
        0.2,
        gt=0,
        le=0.5,
        description="The share of the train rows that is set aside to judge candidates. The "
        "validation rows are not read.",
    )
    seed: Seed = Field(
        0, description="Seed of the rows that are set aside and of everything else that is random."
    )

    @model_validator(mode="after")
    def _distinct(self) -> SearchOptions:
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError("learning_rates are named once each")
        if len(set(self.families)) < len(self.families):
            raise ValueError("families are named once each")
        share = type(self).model_fields["budget_share"].default  # stored requests name the default
        if self.budget_seconds is not None and self.budget_share != share:
            raise ValueError("budget_share means nothing with budget_seconds; leave one out")
        return self


def check_searched(training: TrainingSpec) -> None:
    """Raise ValueError if options of training mean nothing to the candidates of a search."""
    if training.learning_rates is not None:
        raise ValueError(
            "training.learning_rates means nothing here, candidates train at learning_rates of "
            "the search; leave it out"
        )
    if training.layer_schedule is not None:
        raise ValueError(
            "training.layer_schedule means nothing here, candidates train all their layers in "
            "every step; leave it out"
        )


class SearchSpec(Submission, SearchOptions):
    """Find the layers, and their learning rate, that learn a task best, by short training runs."""

    training: TrainingSpec = Field(
        TrainingSpec(),
        description="How the chosen layers are to be trained in the end. Candidates train in the "
        "same way but for fewer steps, at each of `learning_rates`.",
    )

    @model_validator(mode="after")
    def _trains_alike(self) -> SearchSpec:
        check_searched(self.training)
        return self

    @model_validator(mode="after")
    def _rates_named_once(self) -> SearchSpec:
        if self.training.learning_rate != TrainingSpec().learning_rate:
            raise ValueError(
                "training.learning_rate means nothing here, candidates train at learning_rates; "
                "leave it out"
            )
        return self


SEARCH_OPTIONS = options_of(
    SearchOptions,
    *("families", "learning_rates", "budget_seconds", "budget_share", "confidence", "held_out"),
    "seed",
)
"""The command-line options of a search."""


class Interval(BaseModel):
    """A value with the interval that holds it at the search's confidence."""

    mean: float = Field(description="The estimate.")
    low: float = Field(description="The lower end of the interval.")
    high: float = Field(description="The upper end of the interval.")


class SearchTrial(BaseModel):
    """One short run of a candidate at one learning rate."""

    learning_rate: float = Field(description="The learning rate at the end of the warm-up.")
    seed: int = Field(description="The seed of the run.")
    steps: int = Field(description="Optimizer steps so far.")
    epochs: float = Field(description="Epochs so far.")
    metric: float | None = Field(
        description="The primary metric on the rows set aside; null where it is not defined."
    )
    loss: float | None = Field(
        description="Mean loss on the rows set aside; null if the run diverged."
    )
    seconds: float = Field(description="Worker seconds that the run took.")


class SearchArm(BaseModel):
    """One candidate: a set of layers, at the best of its learning rates so far."""

    rank: int = Field(description="The place among the candidates, from 1.")
    name: str = Field(description="A short name, such as `3`, `2+3`, `1-4` or `all`.")
    family: Family = Field(description="The kind of set.")
    layers: list[str] = Field(description="The names of its layers, bottom to top.")
    trainable_parameters: int = Field(description="Parameters that train, with the head.")
    status: Literal["finalist", "dropped", "not_tried"] = Field(
        description="Whether it was among the last candidates, was dropped on the way, or was left "
        "out because the scores put it too far down for the budget."
    )
    learning_rate: float | None = Field(
        description="The best of its learning rates; null if it was not tried."
    )
    expected: Interval | None = Field(
        description="The primary metric expected after the whole training; null if it was not "
        "tried."
    )
    p_best: float = Field(description="The probability that it is the best of all candidates.")
    trials: list[SearchTrial] = Field(description="Its runs, in the order in which they were made.")


class SearchedLayer(BaseModel):
    """A layer of the model that was searched."""

    name: str = Field(description="The name in the model, as a selection takes it.")
    index: int = Field(description="The index of the block.")
    parameters: int = Field(description="How many parameters it has.")


class SearchCost(BaseModel):
    """What the search cost beside trying everything."""

    seconds: float = Field(description="Worker seconds spent on trying candidates.")
    budget_seconds: float = Field(description="The most that it was allowed to spend.")
    singles_seconds: float = Field(
        description="What training each layer alone once, on all rows for all epochs, would cost, "
        "from the measured speed."
    )
    share: float = Field(description="`seconds` as a share of `singles_seconds`.")


class SearchResult(BaseModel):
    """The layers and the learning rate that were found, with what is known about them."""

    primary_metric: str = Field(description="The metric that candidates are judged by.")
    baseline: dict[str, float | None] = Field(
        {},
        description="The same metric of a prediction that is the same for every row, on the rows "
        "set aside; null where a constant has none, and empty in results of early versions.",
    )
    baseline_loss: float | None = Field(
        None,
        description="The lowest loss that a constant can reach on the rows that candidates trained "
        "on; null in results of early versions.",
    )
    layers: list[str] = Field(description="The chosen layers, bottom to top.")
    learning_rate: float = Field(description="The learning rate that they are to train at.")
    winner: str | None = Field(
        description="The chosen candidate, if it is better than every other one at `confidence`, "
        "corrected for repeated looks; otherwise null: others may be as good."
    )
    stopped: Literal["certain", "budget", "exhausted"] = Field(
        description="Why the search ended: the best candidate was certain, the budget was spent, "
        "or every candidate had been trained to the end."
    )
    gain_over_all: Interval | None = Field(
        description="How much more the choice is expected to reach than all layers do at their own "
        "best rate; null if all layers were not among the candidates."
    )
    gain_over_fisher: Interval | None = Field(
        description="The same beside the two layers that the Fisher score ranks first; null if "
        "they were not among the candidates."
    )
    arms: list[SearchArm] = Field(description="All candidates, best first.")
    model_layers: list[SearchedLayer] = Field(description="All layers of the model, bottom to top.")
    scores: dict[str, dict[str, float]] = Field(
        description="By method and layer: the scores that decided which candidates came first."
    )
    train_rows: int = Field(description="Rows that candidates trained on.")
    held_out_rows: int = Field(description="Rows of train that they were judged by.")
    looks: int = Field(description="How often the candidates were compared.")
    confidence: float = Field(description="The confidence of all intervals and of `winner`.")
    cost: SearchCost = Field(description="What it cost beside trying everything.")
    seconds: dict[str, float] = Field(description="Seconds by phase.")
    warnings: list[JobWarning] = Field(description="What a reader of the numbers should know.")
