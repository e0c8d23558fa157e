"""What a search does before its first run: it fits a new head, and scores the layers through it."""

from __future__ import annotations

from dataclasses import replace

import torch

from surgery.errors import MethodUndefined
from surgery.models.loading import LoadedModel
from surgery.ranking.ranking import Phases, open_scorer
from surgery.ranking.scorer import ranked_only
from surgery.schemas import JobWarning
from surgery.schemas.enums import Method
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.options.training import TrainingSpec
from surgery.training.preparation.head import begin_head
from surgery.training.search.state import SearchState
from surgery.training.search.trials import JudgedRows

SCORED_ROWS = 48  # cheap: scores only decide what is tried first


def prepared(
    loaded: LoadedModel, rows: JudgedRows, training: TrainingSpec, phases: Phases
) -> SearchState:
    """The state of a search that has not begun, with the head that all its runs begin with.

    It is the head that a fine-tune with these options begins with, on the rows to fit on.
    """
    with phases.timed("head"):
        fit = rows.encoded.select(rows.fit)
        begin_head(loaded, fit, rows.data.problem, training, phases.report)
    fitted = {name: tensor.detach().cpu().clone() for name, tensor in loaded.head.items()}
    state = SearchState(head=fitted, scores={})
    with phases.timed("score"):
        _score(loaded, rows, training, phases, state)
    return state


@torch.no_grad()
def set_head(loaded: LoadedModel, state: SearchState) -> None:
    """Give the model the head of a state."""
    for name, tensor in loaded.head.items():
        tensor.copy_(state.head[name])


def _score(
    loaded: LoadedModel,
    rows: JudgedRows,
    training: TrainingSpec,
    phases: Phases,
    state: SearchState,
) -> None:
    """The Fisher and the tangent score of each layer, bottom to top, on some rows to fit on."""
    options = RankingOptions(
        samples=min(SCORED_ROWS, len(rows.fit)),
        max_length=training.max_length,
        seed=training.seed,
        bootstrap=0,
        model_prior=False,
    )
    fit = replace(rows.data, train=rows.data.train.select(rows.fit), fingerprint=None)
    scorer = open_scorer(loaded, fit, options, phases.report)
    found = {Method.FISHER: ranked_only(scorer.fisher())}
    try:
        found[Method.TANGENT] = ranked_only(scorer.tangent())
    except MethodUndefined as error:
        message = f"candidates come first by their {Method.FISHER} score: {error.detail}"
        state.warnings.append(JobWarning(code="method_undefined", message=message))
    state.scores = {str(method): scores.values.tolist() for method, scores in found.items()}
