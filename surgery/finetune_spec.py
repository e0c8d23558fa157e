"""The shapes of a fine-tune and of a comparison of several. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from surgery.dataset_spec import Strict
from surgery.selection_spec import SelectionSpec
from surgery.spec import Submission
from surgery.terms import RANKED, Policy
from surgery.training_spec import AdapterSpec, CheckpointSpec, TrainingSpec

MAX_RUNS = 256  # children of one comparison
AlsoEvaluate = Annotated[
    list[Annotated[str, StringConstraints(max_length=100)]],
    Field(
        max_length=8,
        description="Presets on which each evaluation measures too, such as `glue/ax` for a model "
        "trained on `glue/mnli`.",
        examples=[["glue/ax"]],
    ),
]
ArmName = Annotated[str, StringConstraints(pattern=r"^[\w.+-]+(?: [\w.+-]+)*$", max_length=64)]


class Trained(Strict):
    """What trains: selected layers, or an adapter."""

    selection: SelectionSpec
    adapter: AdapterSpec | None = Field(
        None, description="Train an adapter instead of layers, as a peer to compare with."
    )

    @model_validator(mode="before")
    @classmethod
    def _adapter_alone(cls, values: Any) -> Any:
        """An adapter leaves every layer frozen: its selection is the head."""
        if isinstance(values, dict) and values.get("adapter") and "selection" not in values:
            return {**values, "selection": {"policy": Policy.HEAD_ONLY}}
        return values

    @model_validator(mode="after")
    def _one_of_both(self) -> Trained:
        if self.adapter is not None and self.selection.policy is not Policy.HEAD_ONLY:
            raise ValueError(
                "selection does not go with an adapter, which trains in place of layers"
            )
        if self.adapter is not None and self.selection.include:
            raise ValueError("selection.include does not go with an adapter; leave it out")
        return self


class FinetuneSpec(Trained, Submission):
    """Fine-tune a model on a dataset, training only the selected layers and the head."""

    training: TrainingSpec = TrainingSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    continue_from: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None,
        description="A checkpoint's id: begin with its weights instead of the model's. It is of "
        "the same model and labels.",
    )
    also_evaluate: AlsoEvaluate = Field([])
    track_ranking: bool = Field(
        False,
        description="Score 128 training rows at the start and at every evaluation, to see whether "
        "the ranking of the layers stays the same while they train.",
    )
    processes: int = Field(
        1, ge=1, le=64, description="Train on so many devices of one machine at once."
    )

    @model_validator(mode="after")
    def _fits_lora(self) -> FinetuneSpec:
        if self.adapter is None or self.adapter.type != "lora":
            return self
        if self.track_ranking:
            raise ValueError(
                "track_ranking scores layers as they were loaded, and lora changes what they "
                "hold; leave it out"
            )
        if self.continue_from and self.checkpoints.form == "delta":
            raise ValueError(
                "an adapter of a continued model would not fit the model named here; set "
                "checkpoints.form to full with continue_from"
            )
        return self

    @model_validator(mode="after")
    def _rates_need_scores(self) -> FinetuneSpec:
        if self.training.layer_learning_rates and self.selection.policy not in RANKED:
            raise ValueError(
                "training.layer_learning_rates go by the scores of a ranking, and policy "
                f"{self.selection.policy.value} has none"
            )
        return self


class ArmSpec(Trained):
    """One way to train, compared with others."""

    name: ArmName
    learning_rate: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="Instead of the training's."
    )


class ComparisonSpec(Submission):
    """Train several ways on the same data and seeds, and tell what the differences are worth."""

    arms: list[ArmSpec] = Field([], max_length=64)
    single_layers: bool = Field(
        False,
        description="Add one arm for each layer alone, and report how well each scoring method's "
        "order agrees with what tuning that layer gained.",
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=16)] = Field(
        [0, 1, 2], min_length=1, description="Each arm is trained once with each."
    )
    training: TrainingSpec = TrainingSpec()
    checkpoints: CheckpointSpec = CheckpointSpec(keep="best")
    also_evaluate: AlsoEvaluate = Field([])

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
