"""The library behind Layer Surgeon: rank an encoder's layers, fine-tune the ones that matter.

It is usable without the service::

    from surgery import rank_layers, finetune, load
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# These are imported on first use: the API process imports surgery.schemas and must not load torch.
_EXPORTS = {
    "FinetuneSpec": "surgery.schemas.jobs.finetune",
    "Quiet": "surgery.io.reporter",
    "RankingOptions": "surgery.schemas.jobs.ranking",
    "SearchSpec": "surgery.schemas.jobs.search",
    "SelectionSpec": "surgery.schemas.jobs.selection",
    "Sources": "surgery.io.sources",
    "apply_delta": "surgery.checkpoints.checkpoint",
    "choose_layers": "surgery.ranking.selection",
    "find_blocks": "surgery.models.blocks",
    "finetune": "surgery.training.loop",
    "fisher_scores": "surgery.gradients.engine",
    "ingest": "surgery.data.ingest.ingest",
    "layers_of_model": "surgery.models.trainable",
    "load": "surgery.checkpoints.checkpoint",
    "load_model": "surgery.models.loading",
    "local_model": "surgery.models.source.resolve",
    "metrics_for": "surgery.data.presets.tasks",
    "open_data": "surgery.data.tokens.dataset",
    "rank_layers": "surgery.ranking.ranking",
    "search_layers": "surgery.training.search.search",
}
__all__ = [
    "FinetuneSpec",
    "Quiet",
    "RankingOptions",
    "SearchSpec",
    "SelectionSpec",
    "Sources",
    "__version__",
    "apply_delta",
    "choose_layers",
    "find_blocks",
    "finetune",
    "fisher_scores",
    "ingest",
    "layers_of_model",
    "load",
    "load_model",
    "local_model",
    "metrics_for",
    "open_data",
    "rank_layers",
    "search_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
