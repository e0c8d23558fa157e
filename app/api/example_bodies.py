"""Example bodies of requests, shown in the OpenAPI document."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"

RANKING_BODIES: Json = {
    "shortest": {
        "summary": "A preset, with every default",
        "value": {"model": MODEL_ID, "dataset": "glue/cola"},
    },
    "hub": {
        "summary": "A dataset of the Hub, the paper's aggregate",
        "value": {
            "model": "google-bert/bert-base-cased",
            "dataset": {
                "hub": "cornell-movie-review-data/rotten_tomatoes",
                "columns": {"text": "text", "label": "label"},
            },
            "aggregate": "frobenius",
            "samples": 512,
        },
    },
    "how sure of the rows": {
        "summary": "How sure is it? Score rows until the top layers are certain",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "adaptive": True,
            "samples": 2048,
            "fisher": "exact",
        },
    },
    "how sure of the head": {
        "summary": "How sure is it? Average over new heads and report their spread",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "head": {"init": "new", "warmup_epochs": 2},
            "head_seeds": 4,
        },
    },
    "every method": {
        "summary": "Rank by Fisher information, every other method beside it",
        "value": {"model": MODEL_ID, "dataset": "glue/rte", "method": "all", "samples": 256},
    },
    "can it learn": {
        "summary": "Which layer can learn the task: the tangent kernels",
        "value": {"model": MODEL_ID, "dataset": "glue/rte", "method": "tangent", "samples": 512},
    },
    "fine-grained": {
        "summary": "Attention and feed-forward parts, per parameter, in bfloat16",
        "value": {
            "model": MODEL_ID,
            "dataset": "super_glue/copa",
            "granularity": "sublayer",
            "aggregate": "mean",
            "precision": "bf16",
            "model_prior": False,
        },
    },
    "as published": {
        "summary": "The computation of the paper's released code, for comparison",
        "value": {"model": MODEL_ID, "dataset": "glue/rte", "method": "paper_compat"},
    },
}
FINETUNE_BODIES: Json = {
    "top two": {
        "summary": "The two best layers, ranked first if need be",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "top_k", "k": 2},
            "training": {"epochs": 3, "learning_rate": 1e-4},
        },
    },
    "by name": {
        "summary": "Layers by name, as a whole transformers folder",
        "value": {
            "model": MODEL_ID,
            "dataset": "ds_01kasz3v7d9q6m8x2c4n5b7t1w",
            "selection": {"policy": "layers", "layers": ["encoder.layer.1", 4]},
            "checkpoints": {"keep": "best", "form": "full"},
        },
    },
    "share of the score": {
        "summary": "The fewest layers that hold 70 % of the total score",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "top_share", "share": 0.7},
        },
    },
    "budget": {
        "summary": "The best attention and feed-forward parts that fit into two million parameters",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {
                "policy": "max_parameters",
                "max_parameters": 2_000_000,
                "granularity": "sublayer",
                "ranking": {"aggregate": "mean"},
            },
        },
    },
    "tensors": {
        "summary": "Ten tensors of a ranking of tensors, and the pooler",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {
                "policy": "top_k",
                "k": 10,
                "ranking": "rk_01kasz3v7d9q6m8x2c4n5b7t1w",
                "granularity": "tensor",
                "include": ["pooler"],
            },
        },
    },
    "measured elsewhere": {
        "summary": "One fine-tune, measured on both sets of MNLI and on the diagnostics",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/mnli",
            "selection": {"policy": "top_k", "k": 2},
            "also_evaluate": ["glue/mnli_mismatched", "glue/ax"],
        },
    },
    "tracked": {
        "summary": "The best layer by another method; does the ranking stay as it was?",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "selection": {"policy": "top_k", "k": 1, "ranking": {"method": "tangent"}},
            "track_ranking": True,
        },
    },
}
