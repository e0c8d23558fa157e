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
    "apply_delta": "surgery.checkpoints.checkpoint",
    "finetune": "surgery.training.loop",
    "fisher_scores": "surgery.gradients.engine",
    "find_blocks": "surgery.models.blocks",
    "load": "surgery.checkpoints.checkpoint",
    "rank_layers": "surgery.ranking.ranking",
}
__all__ = [
    "__version__",
    "apply_delta",
    "find_blocks",
    "finetune",
    "fisher_scores",
    "load",
    "rank_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
