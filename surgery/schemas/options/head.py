"""How a task head is chosen and trained before anything else, and what became of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from surgery.schemas import Strict
from surgery.schemas.fields import option_of

HeadTraining = Literal["converged", "epochs", "none"]


class HeadSpec(Strict):
    """The task head, and how it is trained while the encoder stays as it is."""

    init: Literal["auto", "new"] = Field(
        "auto",
        description="`auto` keeps the checkpoint's own head if it fits the labels; `new` draws "
        "a new one.",
    )
    fit: Literal["converged", "epochs"] | None = Field(
        None,
        description="`converged`: the layer that gives the logits is fitted until nothing changes "
        "any more, with a ridge chosen by cross-validation. `epochs`: the whole head trains for "
        "`warmup_epochs`. Default: `epochs` if `warmup_epochs` is given; otherwise `converged` "
        "for a new head, and the checkpoint's own stays as it is.",
    )
    warmup_epochs: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Passes over cached features, for fit `epochs`; 0 leaves the head untrained. "
        "Default: 1.",
    )
    warmup_samples: int = Field(
        1024, ge=1, le=100_000, description="Training rows that the head is trained on."
    )

    @model_validator(mode="after")
    def _epochs_of_epochs(self) -> HeadSpec:
        if self.fit == "converged" and self.warmup_epochs is not None:
            raise ValueError("warmup_epochs goes with fit epochs; leave one of them out")
        return self

    def training_of(self, *, new: bool) -> HeadTraining:
        """What is done to a head, which is a new one or the checkpoint's own."""
        if self.fit == "epochs" or self.warmup_epochs is not None:
            return "epochs" if self.epochs else "none"
        return "converged" if new or self.fit == "converged" else "none"

    @property
    def epochs(self) -> int:
        """The passes over the features, for fit ``epochs``."""
        return 1 if self.warmup_epochs is None else self.warmup_epochs


HEAD_FIT = option_of(
    HeadSpec,
    "fit",
    name="head_fit",
    help="How the head is fitted first. converged: the layer that gives the logits, until nothing "
    "changes any more, with a ridge chosen by cross-validation. epochs: the whole head, for one "
    "pass over the features. Left out, a new head is fitted to convergence, and the checkpoint's "
    "own stays as it is.",
)
"""The command-line option of the head's training."""


class HeadReport(BaseModel):
    """The head through which gradients flow, or with which training begins."""

    source: Literal["checkpoint", "new"] = Field(
        description="`checkpoint`: the model's own head. `new`: one that was drawn."
    )
    fit: Literal["closed_form", "lbfgs", "epochs", "none"] = Field(
        "epochs",
        description="How it was trained: to convergence, in closed form or by L-BFGS; for a number "
        "of epochs; or not at all.",
    )
    warmup_epochs: int = Field(description="Passes over the features, for fit `epochs`; else 0.")
    warmup_rows: int = Field(description="Training rows that it was trained on.")
    warmup_loss: float | None = Field(
        description="Mean loss of the last pass, for fit `epochs`; otherwise null."
    )
    loss: float | None = Field(
        None,
        description="Mean of −log p(label) over these rows once it has converged, without the "
        "ridge; for a regression half the mean squared error. Null for other fits.",
    )
    baseline_loss: float | None = Field(
        None,
        description="The same for the best prediction that ignores the texts: the entropy of the "
        "labels' frequencies, or half the variance of the labels.",
    )
    gradient_start: float | None = Field(
        None, description="The norm of the objective's gradient, with the ridge, before the fit."
    )
    gradient_end: float | None = Field(None, description="The same after the fit.")
    iterations: int | None = Field(
        None, description="Iterations of L-BFGS; 0 for a closed form, null for other fits."
    )
    ridge: float | None = Field(
        None,
        description="λ of the penalty (λ/2) ‖W‖² on the weight of the fitted layer, beside the "
        "mean loss; its bias is not penalised.",
    )
