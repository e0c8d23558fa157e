"""Train a head as a request asks for it, and report what became of it."""

from __future__ import annotations

from typing import Literal

from surgery.heads.converge import HeadFit, converge
from surgery.heads.features import HeadFeatures, Relabel
from surgery.heads.warmup import warm_up
from surgery.schemas.options.head import HeadReport, HeadSpec


def prepare_head(  # the last two are for labels that are not the rows' own
    features: HeadFeatures,
    spec: HeadSpec,
    *,
    new: bool,
    seed: int,
    relabel: Relabel | None = None,
    ridge: float | None = None,
) -> tuple[HeadReport, HeadFit | None]:
    """Train the present head in place; ``new`` says whether it was drawn.

    ``relabel`` replaces the labels of the rows, and ``ridge`` takes the place of the one that
    cross-validation would choose. Also returns how it converged, if it did.
    """
    if spec.training_of(new=new) == "converged":
        fit = converge(features, seed=seed, ridge=ridge, relabel=relabel)
        return _report_of(fit, new=new), fit
    loss = warm_up(features, epochs=spec.epochs, seed=seed, relabel=relabel)
    report = HeadReport(
        source="new" if new else "checkpoint",
        fit="epochs",
        warmup_epochs=spec.epochs,
        warmup_rows=len(features),
        warmup_loss=loss,
    )
    return report, None


def untouched(*, new: bool) -> HeadReport:
    """The report on a head that is used as it is."""
    source: Literal["new", "checkpoint"] = "new" if new else "checkpoint"
    return HeadReport(source=source, fit="none", warmup_epochs=0, warmup_rows=0, warmup_loss=None)


def _report_of(fit: HeadFit, *, new: bool) -> HeadReport:
    return HeadReport(
        source="new" if new else "checkpoint",
        fit=fit.kind,
        warmup_epochs=0,
        warmup_rows=fit.rows,
        warmup_loss=None,
        loss=fit.loss,
        baseline_loss=fit.baseline_loss,
        gradient_start=fit.gradient_start,
        gradient_end=fit.gradient_end,
        iterations=fit.iterations,
        ridge=fit.ridge,
    )
