"""A choice of layers written for other tools, as rankings and searches answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Query

from app.db.tables import Job
from app.service import Service
from surgery.errors import Fault, SelectionMismatch, SurgeryError
from surgery.models.layers import encoder_sizes
from surgery.models.source.resolve import resolve_model, tensor_sizes
from surgery.ranking.selection import (
    SelectionFormat,
    matched_tensors,
    selection_view,
    tensors_of,
)
from surgery.schemas.enums import Granularity
from surgery.schemas.resolved import LayerInfo, Resolved

Format = Annotated[
    SelectionFormat,
    Query(
        alias="format",
        description="How the selection is written: as a list of layers (`json`), as options of "
        "PEFT's configurations (`peft`), as Axolotl's list of unfrozen parameters (`axolotl`), "
        "or as a regular expression (`regex`).",
    ),
]


def written_selection(
    service: Service,
    job: Job,
    chosen: Sequence[LayerInfo],
    form: SelectionFormat,
    granularity: Granularity,
) -> dict[str, Any]:
    """The fields of an answer that say what is chosen in this format.

    Raises SelectionMismatch for a choice that the format cannot express.
    """
    view = selection_view(chosen, form, granularity)
    return {
        "format": form,
        "selection": view,
        "matches": _matches(service, job, chosen, form, view, granularity),
        "trainable_parameters": sum(layer.parameters for layer in chosen),
        "total_parameters": Resolved.of(job.resolved).model.parameters,
    }


def _matches(
    service: Service,
    job: Job,
    chosen: Sequence[LayerInfo],
    form: SelectionFormat,
    view: Mapping[str, Any],
    granularity: Granularity,
) -> int | None:
    """How many of the model's tensors a selection stands for, in the tool that it is written for.

    None if the model cannot be read now. Raises SelectionMismatch if they are not those of the
    chosen layers.
    """
    model = Resolved.of(job.resolved).model
    try:
        source = resolve_model(model.reference, service.settings.sources)
        sizes = tensor_sizes(source, service.settings.sources)
    except SurgeryError:
        return None
    if source.fingerprint != model.fingerprint:
        return None
    names = encoder_sizes(sizes, source.prefix)
    expected = {f"{source.prefix}.{name}" for name in tensors_of(chosen, granularity, names)}
    if form != "json":
        matched = matched_tensors(view, form, [f"{source.prefix}.{name}" for name in names])
        if matched != expected:
            raise SelectionMismatch(
                f"{form} cannot express this choice: it would match {len(matched)} tensors of "
                f"{model.id}, and {len(expected)} are chosen",
                [Fault("use another format", pointer="/format")],
            )
    return len(expected)
