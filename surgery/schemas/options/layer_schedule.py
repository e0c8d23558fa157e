"""Schedules by which the selected layers take turns in training, and what they mean for a step.

Layers are counted from 0 at the bottom, among those that a schedule moves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from surgery.errors import Fault, SurgeryError, TrainingInvalid
from surgery.schemas import Strict
from surgery.schemas.fields import option_of


class GradualUnfreezing(Strict):
    """Gradual unfreezing (ULMFiT; Howard and Ruder, ACL 2018).

    The topmost selected layer trains from the first step, and one more layer, from the top down,
    after each period. What is unfrozen stays so.
    """

    type: Literal["gradual"] = Field(
        description="The topmost selected layer first, then one more from the top down after each "
        "period (Howard and Ruder, ACL 2018)."
    )
    every_epochs: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Unfreeze one more layer, from the top down, after this many epochs.",
    )
    every_steps: int | None = Field(
        None,
        ge=1,
        description="Unfreeze one more layer, from the top down, after this many optimizer steps.",
    )

    @model_validator(mode="after")
    def _one_period(self) -> GradualUnfreezing:
        if (self.every_epochs is None) == (self.every_steps is None):
            raise ValueError("give one of every_epochs and every_steps")
        return self

    def period(self, steps_per_epoch: int) -> int:
        """The number of optimizer steps between two unfreezings."""
        return self.every_steps or (self.every_epochs or 1) * steps_per_epoch


class SampledLayers(Strict):
    """LISA, layerwise importance sampled AdamW (Pan et al., NeurIPS 2024)."""

    type: Literal["lisa"] = Field(
        description="Some of the selected layers, drawn anew after each interval, train and the "
        "others are frozen (LISA; Pan et al., NeurIPS 2024)."
    )
    layers: int = Field(
        ge=1,
        le=1000,
        description="LISA: how many of the selected layers train at a time, γ in the paper.",
    )
    interval: int = Field(
        ge=1, description="LISA: draw other layers after this many steps, K in the paper."
    )


LayerSchedule = Annotated[GradualUnfreezing | SampledLayers, Field(discriminator="type")]
TYPES = ("gradual", "lisa")
SCHEDULE_OPTIONS = (
    option_of(GradualUnfreezing, "every_epochs", name="unfreeze_every_epochs", minimum=1),
    option_of(GradualUnfreezing, "every_steps", name="unfreeze_every_steps", minimum=1),
    option_of(SampledLayers, "layers", name="lisa_layers", type=int, minimum=1, default=None),
    option_of(SampledLayers, "interval", name="lisa_interval", type=int, minimum=1, default=None),
)


def layer_schedule_from(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The layer schedule that command-line options describe, by the names of SCHEDULE_OPTIONS.

    None if there is none of them. Raises SurgeryError if they do not describe one schedule.
    """
    epochs, steps = given["unfreeze_every_epochs"], given["unfreeze_every_steps"]
    layers, interval = given["lisa_layers"], given["lisa_interval"]
    if (layers is None) != (interval is None):
        raise SurgeryError("--lisa-layers and --lisa-interval go together")
    if sum(each is not None for each in (epochs, steps, layers)) > 1:
        flags = "--unfreeze-every-epochs, --unfreeze-every-steps and --lisa-layers"
        raise SurgeryError(f"only one of {flags} can be given")
    if layers is not None:
        return {"type": "lisa", "layers": layers, "interval": interval}
    if epochs is None and steps is None:
        return None
    return {"type": "gradual", "every_epochs": epochs, "every_steps": steps}


def unfrozen_at(
    schedule: GradualUnfreezing, layers: int, step: int, steps_per_epoch: int
) -> list[int]:
    """The layers that train in an optimizer step, counted from 0."""
    count = 1 + step // schedule.period(steps_per_epoch)
    return list(range(max(0, layers - count), layers))


def drawn_at(schedule: SampledLayers, layers: int, step: int, seed: int) -> list[int]:
    """The layers that train in an optimizer step: drawn uniformly, without replacement.

    They depend on the seed and the number of the interval only, so that a resumed run goes on with
    the same.
    """
    source = random.Random(seed * 1_000_003 + step // schedule.interval)  # noqa: S311
    return sorted(source.sample(range(layers), schedule.layers))


def lowest_chances(schedule: SampledLayers, layers: int) -> list[float]:
    """For each layer the probability that it is the lowest of those that are drawn."""
    draws = math.comb(layers, schedule.layers)
    return [math.comb(layers - 1 - place, schedule.layers - 1) / draws for place in range(layers)]


def check_layer_count(schedule: LayerSchedule | None, layers: int) -> None:
    """Raise TrainingInvalid if a schedule draws more layers than are selected."""
    if isinstance(schedule, SampledLayers) and schedule.layers > layers:
        detail = f"draws {schedule.layers} layers, and {layers} are selected"
        raise TrainingInvalid(
            f"layer_schedule {detail}; draw fewer, or select more",
            [Fault(detail, pointer="/training/layer_schedule/layers")],
        )
