"""The head that a fine-tune begins with."""

from __future__ import annotations

from surgery.data.tokens.dataset import Encoded, choose_rows
from surgery.heads.features import HeadFeatures
from surgery.heads.prepare import prepare_head, untouched
from surgery.io.reporter import Reporter
from surgery.models.distributed import broadcast_weights, present_share
from surgery.models.loading import LoadedModel
from surgery.schemas.enums import Problem
from surgery.schemas.options.head import HeadReport
from surgery.schemas.options.training import TrainingSpec


def begin_head(
    loaded: LoadedModel, train: Encoded, problem: Problem, training: TrainingSpec, report: Reporter
) -> HeadReport:
    """Train the head as the options ask for it, with the encoder as it is, in place.

    A run that goes on from a saved state does the same again, and then has the state's weights: so
    that its report, and a ranking at the start, are those of the interrupted run. Several processes
    all end with the first one's head.
    """
    spec, new = training.head, loaded.has_new_head
    if spec.training_of(new=new) == "none":
        return untouched(new=new)
    report.phase("head")
    rows = choose_rows(len(train), spec.warmup_samples, training.seed + 1)
    head = list(loaded.head.values())
    features = HeadFeatures(loaded.model, head, train.select(rows), problem, report)
    found, _ = prepare_head(features, spec, new=new, seed=training.seed)
    broadcast_weights(loaded.model, present_share())
    return found
