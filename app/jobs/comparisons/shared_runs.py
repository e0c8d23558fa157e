"""Arms of a comparison that train the same tensors in the same way share their runs.

Arms whose layers are known at submission are compared then; the others when their ranking or search
has ended. "The same" is judged on tensors: two layers by the Fisher score may be the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Job, JobKind
from surgery.errors import SurgeryError
from surgery.io.digests import json_digest
from surgery.models.layers import merged_parts, ranked_parts
from surgery.ranking.selection import (
    choose_layers,
    found_by_search,
    granularity_of,
    resolved_choice,
)
from surgery.schemas.enums import Granularity
from surgery.schemas.jobs.comparison import ArmPlan
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import RankingResult
from surgery.schemas.jobs.search import SearchResult
from surgery.schemas.resolved import LayerInfo, ResolvedFinetune, ResolvedSelection


@dataclass(frozen=True)
class Choice:
    """What an arm trains, and all ``parts`` of the model among which that was chosen."""

    selection: ResolvedSelection
    parts: Sequence[LayerInfo]


def arm_digest(spec: FinetuneSpec, choice: Choice) -> str:
    """The digest of what an arm trains and how, the seed aside.

    It is equal for arms of one comparison whose runs with equal seeds are the same computation.
    """
    chosen, training = choice.selection, spec.training
    granularity = chosen.granularity or Granularity.LAYER
    settings = training.model_dump(mode="json", exclude={"seed"})
    if chosen.learning_rate is not None:
        settings["learning_rate"] = chosen.learning_rate
    # Of two ways to name the same tensors, these settings can make different runs.
    by_name = training.layer_schedule or training.layer_learning_rate_decay
    content = {
        "tensors": merged_parts(set(chosen.layers or ()), choice.parts, granularity),
        "include": sorted(set(spec.selection.include)),
        "adapter": spec.adapter and spec.adapter.model_dump(mode="json"),
        "training": settings,
        "granularity": granularity if by_name else None,
        "scores": chosen.scores if training.layer_learning_rates else None,
    }
    return f"sha256:{json_digest(content)}"


def settled_arms(
    arms: Sequence[ArmPlan], name: str, layers: list[str] | None, digest: str
) -> list[ArmPlan]:
    """The arms, of which the one of this name has these layers now and shares its equal's runs."""
    equal = [arm.name for arm in arms if arm.digest == digest and arm.same_as is None]
    settled: ArmPlan = next(arm for arm in arms if arm.name == name)
    if settled.digest is not None:
        return list(arms)  # by another seed's run
    known = {"layers": layers, "digest": digest, "same_as": equal[0] if equal else None}
    return [arm.model_copy(update=known) if arm is settled else arm for arm in arms]


def learned_choice(child: Job, chooser: Job) -> Choice | None:
    """What a child trains now that its ranking or its search has ended.

    None if that cannot be told here: the worker will then say what is wrong.
    """
    try:
        spec = FinetuneSpec.model_validate(child.spec)
        if chooser.kind == JobKind.SEARCH:
            return _found(SearchResult.model_validate(chooser.result))
        return _ranked(spec, RankingResult.model_validate(chooser.result))
    except (SurgeryError, ValidationError):
        return None


def _found(search: SearchResult) -> Choice:
    parts = [LayerInfo(**layer.model_dump()) for layer in search.model_layers]
    return Choice(found_by_search(search, parts), parts)


def _ranked(spec: FinetuneSpec, ranking: RankingResult) -> Choice | None:
    sizes = {group.name: group.parameters for group in ranking.groups}
    wanted = set(spec.selection.include)
    if not wanted <= sizes.keys():
        return None
    parts, included = ranked_parts(ranking), sum(sizes[name] for name in wanted)
    chosen = choose_layers(spec.selection, parts, ranking, included)
    granularity = granularity_of(spec.selection, ranking)
    return Choice(resolved_choice(chosen, granularity, ranking, included), parts)


def run_of_equal_arm(
    session: Session, comparison: Job, arms: Sequence[ArmPlan], child: Job
) -> Job | None:
    """The run whose result is this child's too: that of an equal arm with the same seed."""
    own = ResolvedFinetune.of(child.resolved).arm
    equal = next((arm.same_as for arm in arms if arm.name == own), None)
    if equal is None:
        return None
    runs = session.scalars(
        select(Job).where(
            Job.parent == comparison.id,
            Job.kind == JobKind.FINETUNE,
            Job.resolved["arm"].as_string() == equal,
        )
    )
    seed = child.spec["training"]["seed"]
    return next((run for run in runs if run.spec["training"]["seed"] == seed), None)
