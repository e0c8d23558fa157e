"""The engine under measurement, its self-check aside: the plan that it leads to is made before."""

from __future__ import annotations

from torch import Tensor

from bench.fisher.cases import Case
from surgery.gradients.engine import FisherScores, fisher_scores, plan_for
from surgery.gradients.passes import Objective
from surgery.gradients.plan import Plan
from surgery.models.blocks import find_blocks, units_of
from surgery.schemas.enums import Fisher, Problem

EMPIRICAL = Objective(Problem.CLASSIFICATION)
EXACT = Objective(Problem.CLASSIFICATION, Fisher.EXACT)


def plan(case: Case) -> Plan:
    """The engine's plan with one unit for each block. A job makes it only once."""
    units = units_of(case.model, find_blocks(case.model))
    return plan_for(case.model, units, case.batches[0], EMPIRICAL)


def _scores(case: Case, plan: Plan, objective: Objective, *, elementwise: bool) -> FisherScores:
    return fisher_scores(
        case.model, plan.units, case.batches, objective, elementwise=elementwise, plan=plan
    )


def trace(case: Case, plan: Plan) -> Tensor:
    """Squared gradient norm of each sample and layer, (N, L)."""
    return _matrix(_scores(case, plan, EMPIRICAL, elementwise=False))


def exact(case: Case, plan: Plan) -> Tensor:
    """Σ_c p_c ‖∂ log p_c‖² of each sample and layer, (N, L)."""
    return _matrix(_scores(case, plan, EXACT, elementwise=False))


def frobenius(case: Case, plan: Plan) -> dict[str, Tensor]:
    """The whole diagonal: the mean squared gradient of each scored parameter, in its shape."""
    scores = _scores(case, plan, EMPIRICAL, elementwise=True)
    assert scores.sums is not None
    return {name: total.div_(len(scores.numbers)) for name, total in scores.sums.items()}


def _matrix(scores: FisherScores) -> Tensor:
    assert scores.per_sample is not None
    return scores.per_sample
