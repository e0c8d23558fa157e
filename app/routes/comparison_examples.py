"""Examples of comparisons for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from app.routes.examples import job_example
from app.routes.request_examples import MODEL_ID

Json = dict[str, Any]
COMPARISON_BODIES: Json = {
    "against all": {
        "summary": "Two layers by the default ranking, the last two, an adapter, and all",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "arms": [
                {"name": "top-2", "selection": {"policy": "top_k", "k": 2}},
                {"name": "last-2", "selection": {"policy": "last_k", "k": 2}},
                {"name": "lora", "adapter": {"type": "lora", "rank": 8}, "learning_rate": 3e-4},
                {"name": "all", "selection": {"policy": "all"}},
            ],
            "seeds": [0, 1, 2],
            "training": {"epochs": 3, "learning_rate": 1e-4},
        },
    },
    "each layer alone": {
        "summary": "Does any score foretell which layer is worth tuning?",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "single_layers": True,
            "arms": [{"name": "head", "selection": {"policy": "head_only"}}],
            "seeds": [0, 1, 2],
        },
    },
    "measured elsewhere too": {
        "summary": "Two ways on MNLI, measured on its second validation set and a diagnostic",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/mnli",
            "arms": [
                {"name": "last-2", "selection": {"policy": "last_k", "k": 2}},
                {"name": "all", "selection": {"policy": "all"}},
            ],
            "also_evaluate": ["glue/mnli_mismatched", "glue/ax"],
        },
    },
}


def _run(job: str, seed: int, metric: float) -> Json:
    return {
        "job": job, "seed": seed, "status": "succeeded", "metric": metric,
        "checkpoint": "ck_01kaszq0m3f4h5j6k7m8n9p0q1", "error": None,
    }  # fmt: skip


def _arm(name: str, layers: list[str], parameters: int, metrics: list[float]) -> Json:
    return {
        "name": name, "trained_layers": layers,
        "metric": {"mean": sum(metrics) / len(metrics), "ci": [0.28, 0.35], "seeds": len(metrics)},
        "difference": None, "verdict": None, "also": {}, "trainable_parameters": parameters,
        "seconds": {"load": 0.5, "train": 80.1, "total": 90.4}, "samples_per_second": 212.5,
        "peak_memory_bytes": 1073741824, "checkpoint_bytes": 4 * parameters,
        "runs": [
            _run(f"ft_01kaszb2e8r5t6y7u9i0p3a4s{seed}", seed, metric)
            for seed, metric in enumerate(metrics)
        ],
    }  # fmt: skip


SHARED_RATE = (
    "top-2 and all trained at one learning rate, 0.0001: a rate that suits a few layers can be too "
    "high for all of them, so a difference between these arms, or the lack of one, may be the "
    "rate's"
)
COMPARISON_RESULT: Json = {
    "primary_metric": "matthews_correlation", "reference": "all", "noise": 0.027,
    "arms": [
        {
            **_arm("top-2", ["encoder.layer.4", "encoder.layer.5"], 3549698, [0.31, 0.32, 0.3]),
            "difference": {"mean": -0.06, "ci": [-0.09, -0.03], "seeds": 3}, "verdict": "worse",
        },
        _arm("all", [f"encoder.layer.{i}" for i in range(6)], 10648322, [0.37, 0.38, 0.36]),
    ],
    "failures": [], "single_layers": None, "runs": 6, "seconds": 542.4,
    "warnings": [SHARED_RATE],
}  # fmt: skip
COMPARISON = job_example(
    "cmp_01kat0a1b2c3d4e5f6g7h8j9k0", "comparison", "comparisons",
    COMPARISON_BODIES["against all"]["value"], COMPARISON_RESULT,
)  # fmt: skip
