"""Search for the layers, and the learning rate, that learn a task best."""

from __future__ import annotations

from pathlib import Path

from surgery.data.tokens.dataset import TaskData
from surgery.io.reporter import Reporter
from surgery.models.loading import LoadedModel
from surgery.schemas.search import SearchResult, SearchSpec
from surgery.training.prefix_cache.store import Room


def search_layers(
    loaded: LoadedModel,
    data: TaskData,
    spec: SearchSpec,
    report: Reporter | None = None,
    resume: Path | None = None,
    room: Room | None = None,
) -> SearchResult:
    """Try sets of layers at several learning rates by short runs, and choose the best.

    ``loaded`` is the model as `load_model` returns it for ``spec.seed``, on its device; it trains
    in place and has its own weights again at the end. Of ``data`` only the train rows are read, a
    part of which judges. ``resume`` is a state that ``report.state`` named in an interrupted search
    of the same spec. ``room`` limits what the states of frozen layers may take. ``report.step``
    counts seconds of the budget, and may raise Stopped; a resumable stop saves a state first.

    Raises DatasetInvalid if no rows can be set aside, TrainingInvalid if the options do not fit the
    data, TrainingDiverged if no candidate can be trained at any of the rates, OutOfMemory, and
    Stopped.
    """
    raise NotImplementedError
