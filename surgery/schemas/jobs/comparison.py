"""The request for a comparison of several ways to train, and its result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from surgery.schemas import JobWarning
from surgery.schemas.decision import Decision
from surgery.schemas.enums import POLICIES, Policy
from surgery.schemas.jobs.finetune import AlsoEvaluate, SelectionOrAdapter
from surgery.schemas.jobs.ranking import Submission
from surgery.schemas.options.adapter import LORA_LEARNING_RATE
from surgery.schemas.options.layer_schedule import LayerSchedule
from surgery.schemas.options.training import (
    CheckpointSpec,
    LearningRate,
    LearningRates,
    TrainingSpec,
    names_a_rate,
)

MAX_RUNS = 256  # fine-tunes in one comparison
ArmName = Annotated[str, StringConstraints(pattern=r"^[\w.+-]+(?: [\w.+-]+)*$", max_length=64)]


class ArmPlan(BaseModel):
    """One way to train, as a comparison carries it out."""

    name: str = Field(description="The arm's name.")
    policy: Policy = Field(description="How its layers are chosen.")
    adapter: str | None = Field(
        None, description="The adapter's type, if it trains one in place of layers."
    )
    layers: list[str] | None = Field(
        None, description="The layers that train; null until a ranking or a search has chosen them."
    )
    digest: str | None = Field(
        None,
        description="SHA-256 of what it trains and how, the seed aside: equal for arms that train "
        "the same tensors with the same settings. Null until its layers are known, and in "
        "comparisons of early versions.",
    )
    same_as: str | None = Field(
        None,
        description="The arm whose runs are this arm's too, since both train the same; it has no "
        "runs of its own.",
    )
    single: bool = Field(False, description="Whether `single_layers` added this arm.")
    learning_rate: float | None = Field(
        None,
        description="Null with `learning_rates`, if a search finds it first, and in comparisons of "
        "early versions, which did not store it.",
    )
    learning_rates: list[float] | None = Field(
        None, description="The rates among which each of its runs chooses; null if there is one."
    )


class SeedMean(BaseModel):
    """A mean over runs with several seeds."""

    mean: float = Field(description="The mean over the runs.")
    ci: tuple[float, float] | None = Field(
        description="95 % t interval over the seeds; null for one seed."
    )
    seeds: int = Field(description="The number of runs.")


class RunReport(BaseModel):
    """The run of one arm with one seed."""

    job: str = Field(description="The id of the fine-tune.")
    seed: int = Field(description="The seed of the run.")
    status: str = Field(description="How the run ended.")
    metric: float | None = Field(description="The primary metric at the best evaluation.")
    learning_rate: float | None = Field(
        None,
        description="The learning rate that the run trained at, chosen by itself if its arm has "
        "several; null if the run did not succeed, and in comparisons of early versions.",
    )
    checkpoint: str | None = Field(description="The best checkpoint.")
    error: dict[str, Any] | None = Field(None, description="Why there is no metric.")
    warnings: list[JobWarning] = Field(
        [], description="What a reader of the run's numbers should know, as in its own result."
    )


class ArmReport(BaseModel):
    """What one way to train achieved, and at what cost. Costs are means over the runs."""

    name: str = Field(description="The arm's name.")
    same_as: str | None = Field(
        None,
        description="The arm that trains the same tensors with the same settings: its runs are "
        "this arm's too, and count once.",
    )
    trained_layers: list[str] | None = Field(description="Null if no run succeeded.")
    metric: SeedMean | None = Field(
        description="The primary metric at each run's best evaluation; null if no run has a value."
    )
    difference: SeedMean | None = Field(
        description="To `reference`, paired by seed; null for the reference itself. Its interval "
        "is that of this arm alone, not adjusted for the number of arms."
    )
    p_value: float | None = Field(
        None,
        description="How likely a difference of this size is by chance: of a t test over the "
        "seeds or, with one seed, of a normal distribution with the standard error √2 · `noise`, "
        "which leaves out that training itself differs from seed to seed. Adjusted for the number "
        "of arms (Holm, 1979). Null for the reference, and if it is unknown.",
    )
    verdict: Literal["better", "worse", "within noise"] | None = Field(
        description="`better` or `worse` than the reference if `p_value` is at most the "
        "comparison's `error_rate` and the difference is larger than `noise`. Null for the "
        "reference, and if it cannot be decided."
    )
    also: dict[str, dict[str, SeedMean | None]] = Field(
        {},
        description="The official metrics of each preset of `also_evaluate` at the runs' best "
        "evaluations; null if no run has a value.",
    )
    adapter: str | None = Field(
        None, description="The adapter's type, if it trained one in place of layers."
    )
    trainable_parameters: int | None = Field(
        description="Parameters that trained; null if no run succeeded."
    )
    total_parameters: int | None = Field(
        None,
        description="Parameters of the model with its head; null if no run succeeded, and in "
        "comparisons of early versions.",
    )
    seconds: dict[str, float] = Field(description="Seconds by phase.")
    samples_per_second: float | None = Field(
        description="Training rows a second; null if no run succeeded."
    )
    peak_memory_bytes: int | None = Field(description="The highest of all runs.")
    checkpoint_bytes: int | None = Field(description="The size of a best checkpoint.")
    runs: list[RunReport] = Field(description="The arm's runs, one for each seed.")


class LayerGain(BaseModel):
    """What training one layer alone gained."""

    layer: str = Field(description="The layer's name.")
    arm: str = Field(description="The arm that trained it alone.")
    gain: SeedMean | None = Field(
        description="Null if no seed has both a run of the layer and one of the baseline."
    )


class MethodAgreement(BaseModel):
    """How well one scoring method predicted the gains of the layers."""

    method: str = Field(description="The scoring method.")
    spearman: float | None = Field(
        description="Spearman's rank correlation between its scores and the gains; null if it is "
        "not defined."
    )
    spearman_ci: tuple[float, float] | None = Field(
        description="95 % percentile interval over resamples of the seeds; null for fewer than "
        "three seeds. It says nothing about other models or datasets."
    )
    p_value: float | None = Field(
        description="Of `spearman`, by a permutation test: how often scores that are unrelated to "
        "the gains agree with them as well. It is not corrected for the number of methods."
    )
    adjusted_p_value: float | None = Field(
        None,
        description="`p_value` adjusted for the number of methods that could be recommended (Holm, "
        "1979). Null for fisher and random, which are not, if `p_value` is, and in comparisons of "
        "early versions.",
    )
    minus_fisher_ci: tuple[float, float] | None = Field(
        description="Interval of the difference between `spearman` and that of method fisher, on "
        "the same resamples; null for fisher itself and if there is no interval."
    )
    kendall: float | None = Field(
        description="Kendall's rank correlation between them; null if it is not defined."
    )
    regret: dict[str, float] = Field(
        description="By k: how much more the best layer gained than the best of the method's top k."
    )


class SingleLayers(BaseModel):
    """The gains from tuning each layer alone, and how well scoring methods predicted them."""

    ranking: str | None = Field(
        description="The id of the ranking by every method; null if it failed."
    )
    baseline: str | None = Field(
        description="The arm whose metric with the same seed is subtracted: the first with policy "
        "head_only. Null if there is none; a gain is then the metric itself."
    )
    layers: list[LayerGain] = Field(description="What each layer gained, bottom to top.")
    methods: list[MethodAgreement] = Field(description="Best agreement first.")
    recommended: str | None = Field(
        None,
        description="The first of `methods` that predicted the gains clearly better than fisher: "
        "all of `minus_fisher_ci` is above zero, and `adjusted_p_value` is at most `error_rate`. "
        "Null if there is none: the default is as good as any, or there are too few layers or "
        "seeds to decide.",
    )
    error_rate: float | None = Field(
        None,
        description="How often a method is recommended where the gains are unrelated to all "
        "scores, at most. Null in comparisons of early versions.",
    )


class ComparisonResult(BaseModel):
    """Several ways to train on the same data and seeds, side by side."""

    primary_metric: str = Field(description="The metric by which the arms are compared.")
    baseline: dict[str, float | None] = Field(
        {},
        description="The metrics of a prediction that is the same for every row, on the same "
        "validation rows; the mean over the runs, as of all metrics. Null where a constant has "
        "none, and empty in comparisons of early versions.",
    )
    baseline_loss: float | None = Field(
        None,
        description="The lowest loss on the training rows that a constant can reach; null in "
        "comparisons of early versions.",
    )
    baseline_also: dict[str, dict[str, float | None]] = Field(
        {}, description="As `baseline`, on each preset of `also_evaluate`."
    )
    reference: str = Field(
        description="The arm that the others are compared with: the first successful one with "
        "policy all, otherwise the first successful one."
    )
    noise: float | None = Field(
        description="One standard error of the primary metric due to the choice of the validation "
        "rows; null if it is unknown."
    )
    error_rate: float | None = Field(
        None,
        description="How often a comparison like this one, of arms that do not differ, calls any "
        "of them `better` or `worse`, at most. Null in comparisons of early versions, which judged "
        "each arm by itself.",
    )
    arms: list[ArmReport] = Field(description="The arms in the order of the request.")
    decision: Decision | None = Field(
        None,
        description="Which arm to take, and what is not told apart. Null in comparisons of early "
        "versions.",
    )
    failures: list[RunReport] = Field(description="The runs without a result.")
    single_layers: SingleLayers | None = Field(
        None, description="With `single_layers`: what each layer gained alone."
    )
    runs: int = Field(description="How many fine-tunes it had; one that arms share counts once.")
    seconds: float = Field(description="The sum of the seconds of these fine-tunes.")
    warnings: list[JobWarning] = Field(description="What a reader of the numbers should know.")


class ArmSpec(SelectionOrAdapter):
    """One way to train, to be compared with others."""

    name: ArmName = Field(description="A name of its own, by which the result lists the arm.")
    learning_rate: LearningRate | None = Field(
        None,
        description="Overrides what `training` says of the rate. Default for an adapter of type "
        f"`lora`, if `training` names no rate either: {LORA_LEARNING_RATE:g}.",
    )
    learning_rates: LearningRates | None = Field(
        None,
        description="As in `training`, for this arm: each of its runs chooses the best of these on "
        "a part of the train rows. Overrides what `training` says of the rate.",
        examples=[[1e-4, 3e-4, 1e-3]],
    )
    layer_schedule: LayerSchedule | None = Field(
        None, description="As in `training`, for this arm; overrides the one there."
    )

    @model_validator(mode="after")
    def _one_way_to_a_rate(self) -> ArmSpec:
        if self.learning_rate is not None and self.learning_rates is not None:
            raise ValueError("learning_rate and learning_rates: leave one of them out")
        if self.learning_rates and len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError("learning_rates are named once each")
        return self

    def changed(self) -> dict[str, Any]:
        """The options of training that the arm overrides."""
        changed: dict[str, Any] = {}
        if self.learning_rate is not None:
            changed |= {"learning_rate": self.learning_rate, "learning_rates": None}
        if self.learning_rates is not None:
            default = TrainingSpec.model_fields["learning_rate"].default
            changed |= {"learning_rate": default, "learning_rates": self.learning_rates}
        if self.layer_schedule is not None:
            changed |= {"layer_schedule": self.layer_schedule}
        return changed

    @model_validator(mode="after")
    def _search_finds_the_rate(self) -> ArmSpec:
        rated = self.learning_rate is not None or self.learning_rates is not None
        if rated and POLICIES[self.selection.policy].searches:
            field = "learning_rates" if self.learning_rate is None else "learning_rate"
            raise ValueError(
                f"{field} means nothing to policy search, which trains at the rate that the "
                "search finds; leave it out"
            )
        return self


class ComparisonSpec(Submission):
    """Train in several ways on the same data and seeds, and judge the differences."""

    arms: list[ArmSpec] = Field([], max_length=64, description="The ways to train.")
    single_layers: bool = Field(
        False,
        description="Add one arm for each layer alone, and report how well each scoring method's "
        "order agrees with what tuning each layer gained.",
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=16)] = Field(
        [0, 1, 2], min_length=1, description="Each arm is trained once with each seed."
    )
    training: TrainingSpec = Field(TrainingSpec(), description="How every arm trains.")
    checkpoints: CheckpointSpec = Field(
        CheckpointSpec(keep="best"), description="Which checkpoints every run keeps."
    )
    also_evaluate: AlsoEvaluate = Field([])

    @model_validator(mode="after")
    def _rate_of_lora(self) -> ComparisonSpec:
        """Give LoRA a rate of its own, stored with the arm, unless the request names one."""
        for arm in () if names_a_rate(self.training) else self.arms:
            rated = arm.learning_rate is not None or arm.learning_rates is not None
            if arm.adapter is not None and arm.adapter.type == "lora" and not rated:
                arm.learning_rate = LORA_LEARNING_RATE
        return self

    @model_validator(mode="after")
    def _distinct(self) -> ComparisonSpec:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError("arms need names of their own: two have the same")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds are named once each")
        if not self.arms and not self.single_layers:
            raise ValueError("arms is empty: name one at least, or set single_layers")
        if len(self.arms) * len(self.seeds) > MAX_RUNS:
            raise ValueError(f"arms times seeds are at most {MAX_RUNS} runs; name fewer")
        if self.training.seed != 0:  # a stored request names the default
            raise ValueError(
                "training.seed means nothing here, each run takes one of seeds; leave it out"
            )
        return self
