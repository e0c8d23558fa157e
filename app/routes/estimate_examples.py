"""Examples of questions for estimates, and of an answer."""

from __future__ import annotations

from app.routes.examples import Json
from app.routes.request_examples import MODEL_ID

ESTIMATE_BODIES: Json = {
    "every k": {
        "summary": "Every number of layers, chosen by the default ranking",
        "value": {"model": MODEL_ID, "dataset": "glue/cola"},
    },
    "some k": {
        "summary": "The topmost one, two and four layers, without the cache",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "last_k"},
            "k": [1, 2, 4],
            "training": {"epochs": 5, "prefix_cache": "off"},
        },
    },
    "adapter": {
        "summary": "Low-rank updates instead of layers",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "adapter": {"type": "lora", "rank": 16},
        },
    },
}
ESTIMATE: Json = {
    "model": MODEL_ID, "dataset": "glue/cola", "layers": 6, "total_parameters": 22713986,
    "lengths": {
        "source": "job", "job": "ft_01kaszb2e8r5t6y7u9i0p3a4s5", "tokens_per_word": None,
        "mean_tokens": 11.3, "longest": 44,
    },
    "throughput": {
        "basis": "measured on this model", "device": "NVIDIA A10", "precision": "fp32",
        "operations_per_second": 8.1e12, "jobs": 3,
    },
    "process_bytes": 0,
    "rows": [
        {
            "k": 2, "policy": "last_k", "position": "exact", "lowest_layer": 4,
            "trainable_parameters": 3549698, "weights_bytes": 90855944,
            "gradient_bytes": 14198792, "optimizer_bytes": 28397584,
            "activation_bytes": 96337920, "prefix_cache_bytes": 166494720,
            "peak_memory_bytes": 396284960, "checkpoint_bytes": 14198792, "steps": 804,
            "seconds": {"first_epoch": 0.3, "later_epoch": 0.2, "total": 0.7},
        }
    ],
}  # fmt: skip
