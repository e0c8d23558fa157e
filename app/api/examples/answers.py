"""Examples of answers, which the OpenAPI document shows, and the statuses of refusals."""

from __future__ import annotations

from typing import Any

from fastapi import Body

from app.api.examples.bodies import (
    COMPARISON_BODIES,
    EXPORT_BODIES,
    FINETUNE_BODIES,
    MODEL_ID,
    PREDICTION_BODIES,
    RANKING_BODIES,
    SEARCH_BODIES,
)
from app.api.http.problems import TITLES

Json = dict[str, Any]
FINGERPRINT = "sha256:6d0c0d2f…"
SUCCESS = {
    200: "The request succeeded.",
    201: "The object was created.",
    202: "The request was accepted, and its work is queued or runs already.",
}
LAYER: Json = {"name": "encoder.layer.5", "index": 5, "parameters": 1774464}

TOP: Json = {"1": 1.0, "2": 1.0}
SAME_TOP: Json = {"kendall_tau": 1.0, "top_k_overlap": TOP}
LENGTHS: Json = {
    "unit": "tokens",
    "rows": 256,
    "longest": 38,
    "truncated": 0.0,
    "suggested_max_length": 32,
    "bins": [0, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 8193],
    "counts": [63, 164, 28, 1, 0, 0, 0, 0, 0, 0, 0, 0],
}
HEAD: Json = {
    "source": "new",
    "fit": "lbfgs",
    "warmup_epochs": 0,
    "warmup_rows": 1024,
    "warmup_loss": None,
    "loss": 0.54,
    "baseline_loss": 0.61,
    "gradient_start": 0.21,
    "gradient_end": 3.1e-8,
    "iterations": 30,
    "ridge": 0.0041,
}
RANKING_RESULT: Json = {
    "method": "fisher",
    "aggregate": "trace",
    "fisher": "empirical",
    "minus": None,
    "granularity": "layer",
    "precision": "fp32",
    "samples": 256,
    "path": "batched",
    "layers": [
        {
            "rank": 1,
            **LAYER,
            "score": 0.217,
            "share": 0.58,
            "ci": [0.2, 0.23],
            "p_top_k": TOP,
            "unbiased": None,
            "head_std": None,
        },
        {
            "rank": 2,
            "name": "encoder.layer.4",
            "index": 4,
            "parameters": 1774464,
            "score": 0.157,
            "share": 0.42,
            "ci": [0.15, 0.17],
            "p_top_k": {"1": 0.0, "2": 1.0},
            "unbiased": None,
            "head_std": None,
        },
    ],
    "groups": [{"name": "embeddings", "score": 0.041, "parameters": 11918592}],
    "stability": {"split_half_kendall_tau": 1.0, "rank_confidence": 1.0, "ambiguous_k": []},
    "recommended_k": {"k": 1, "reason": "smallest k with at least half of the total score"},
    "head": HEAD,
    "head_spread": None,
    "model_prior": {
        **SAME_TOP,
        "shuffled_tokens": SAME_TOP,
        "samples": 128,
        "note": "agreement with the ranking of the same model on shuffled labels: most of this "
        "ranking is the model's own, little is about the task",
    },
    "adaptive": None,
    "methods": None,
    "processes": 1,
    "lengths": {**LENGTHS, "validation": None},
    "warnings": [],
    "seconds": {"load": 0.4, "warmup": 2.0, "score": 1.4, "bootstrap": 0.02, "prior": 2.9},
}
EPOCH: Json = {
    "epoch": 2,
    "step": 536,
    "train_loss": 0.51,
    "metrics": {"matthews_correlation": 0.31},
    "noise": 0.027,
    "unrelated": 0.002,
    "rmse_noise": None,
    "only_prediction": None,
    "also": {},
    "ranking": {**SAME_TOP, "scores": {"encoder.layer.4": 0.21, "encoder.layer.5": 0.34}},
    "thresholds": None,
}
FINETUNE_RESULT: Json = {
    "trained_layers": ["encoder.layer.4", "encoder.layer.5"],
    "included": [],
    "adapter": None,
    "ranking": "rk_01kasz3v7d9q6m8x2c4n5b7t1w",
    "search": None,
    "learning_rate": 1e-4,
    "learning_rates": [],
    "active_parameters": None,
    "trainable_parameters": 3549698,
    "total_parameters": 22713986,
    "primary_metric": "matthews_correlation",
    "baseline": {"matthews_correlation": 0.0},
    "baseline_loss": 0.609,
    "baseline_also": {},
    "best": EPOCH,
    "epochs": [EPOCH],
    "stopped_early": False,
    "processes": 1,
    "precision": "fp32",
    "dropout": True,
    "best_checkpoint": "ck_01kaszq0m3f4h5j6k7m8n9p0q1",
    "onnx": {
        "opset": 18,
        "bytes": 91234567,
        "rows": 8,
        "lengths": [5, 8, 9, 11, 13, 16, 21, 38],
        "max_abs_difference": 1.2e-6,
        "seconds": 9.1,
    },
    "head": HEAD,
    "ranking_at_start": {"encoder.layer.4": 0.157, "encoder.layer.5": 0.217},
    "frozen_verified": True,
    "peak_memory_bytes": 1073741824,
    "samples_per_second": 212.5,
    "lengths": {
        **LENGTHS,
        "rows": 8551,
        "counts": [2112, 5468, 927, 44, *[0] * 8],
        "validation": {
            "rows": 1043,
            "longest": 34,
            "truncated": 0.0,
            "counts": [255, 681, 105, 2, *[0] * 8],
        },
    },
    "prefix": {
        "mode": "memory",
        "reason": "the states fit",
        "layers": 4,
        "share": 0.67,
        "rows": 9594,
        "states": 107466,
        "bytes": 165067776,
        "dtype": "fp32",
        "reused": False,
        "seconds": 9.8,
        "stages": [],
    },
    "throughput": {
        "device": "cpu",
        "precision": "fp32",
        "operations": 4.1e12,
        "seconds": 80.1,
        "mean_tokens": 11.2,
        "mean_squares": 141.0,
        "process_bytes": 612368384,
    },
    "seconds": {"train": 80.1, "total": 90.4},
    "warnings": [],
}
PREDICTION_RESULT: Json = {
    "problem": "classification",
    "labels": ["unacceptable", "acceptable"],
    "thresholds": None,
    "predictions": [
        {
            "label": "acceptable",
            "probabilities": [
                {"label": "acceptable", "probability": 0.961532},
                {"label": "unacceptable", "probability": 0.038468},
            ],
        },
        {
            "label": "unacceptable",
            "probabilities": [
                {"label": "unacceptable", "probability": 0.887409},
                {"label": "acceptable", "probability": 0.112591},
            ],
        },
    ],
    "max_length": 128,
    "truncated": 0,
    "seconds": {"load": 0.6, "predict": 0.02},
}
EXPORT_RESULT: Json = {
    "to": "folder",
    "target": "cola-reader",
    "form": "full",
    "location": "exports/pr_default/cola-reader",
    "version": None,
    "digest": FINGERPRINT,
    "bytes": 91566432,
    "files": [
        {"name": "README.md", "bytes": 1830, "sha256": "4be1c93d…"},
        {"name": "config.json", "bytes": 822, "sha256": "0f3c18a9…"},
        {"name": "model.safetensors", "bytes": 90866140, "sha256": "9a1d27e4…"},
        {"name": "surgery.json", "bytes": 11874, "sha256": "c52f60b8…"},
        {"name": "tokenizer.json", "bytes": 685390, "sha256": "be50c362…"},
        {"name": "tokenizer_config.json", "bytes": 376, "sha256": "1d0a55f7…"},
    ],
    "created": True,
    "seconds": {"assemble": 0.4, "publish": 0.1},
}
SEARCH_RESULT: Json = {
    "primary_metric": "matthews_correlation",
    "baseline": {"matthews_correlation": 0.0},
    "baseline_loss": 0.607,
    "layers": ["encoder.layer.1", "encoder.layer.2"],
    "learning_rate": 3e-4,
    "winner": None,
    "stopped": "budget",
    "gain_over_all": {"mean": 0.02, "low": -0.03, "high": 0.07},
    "gain_over_fisher": {"mean": 0.11, "low": 0.04, "high": 0.18},
    "arms": [
        {
            "rank": 1,
            "name": "1+2",
            "family": "pairs",
            "layers": ["encoder.layer.1", "encoder.layer.2"],
            "trainable_parameters": 3549698,
            "status": "finalist",
            "learning_rate": 3e-4,
            "expected": {"mean": 0.39, "low": 0.35, "high": 0.43},
            "p_best": 0.74,
            "trials": [
                {
                    "learning_rate": 3e-4,
                    "seed": 0,
                    "steps": 107,
                    "epochs": 0.5,
                    "metric": 0.31,
                    "loss": 0.55,
                    "seconds": 9.4,
                }
            ],
        },
        {
            "rank": 2,
            "name": "5",
            "family": "single",
            "layers": ["encoder.layer.5"],
            "trainable_parameters": 1775234,
            "status": "not_tried",
            "learning_rate": None,
            "expected": None,
            "p_best": 0.0,
            "trials": [],
        },
    ],
    "model_layers": [LAYER],
    "scores": {"fisher": {"encoder.layer.5": 0.217, "encoder.layer.4": 0.157}},
    "train_rows": 6841,
    "held_out_rows": 1710,
    "looks": 4,
    "confidence": 0.95,
    "cost": {
        "seconds": 140.2,
        "budget_seconds": 141.0,
        "singles_seconds": 402.9,
        "share": 0.35,
    },
    "seconds": {"load": 0.4, "score": 3.1, "search": 140.2},
    "warnings": [],
}
ESTIMATE: Json = {
    "model": MODEL_ID,
    "dataset": "glue/cola",
    "layers": 6,
    "total_parameters": 22713986,
    "lengths": {
        "source": "job",
        "job": "ft_01kaszb2e8r5t6y7u9i0p3a4s5",
        "tokens_per_word": None,
        "mean_tokens": 11.3,
        "longest": 44,
    },
    "throughput": {
        "basis": "measured on this model",
        "device": "NVIDIA A10",
        "precision": "fp32",
        "operations_per_second": 8.1e12,
        "jobs": 3,
        "accuracy": "rarely off by more than a third: measured by fine-tunes of this model",
        "worker": None,
        "measured_at": None,
    },
    "process_bytes": 0,
    "rows": [
        {
            "k": 2,
            "policy": "last_k",
            "position": "exact",
            "lowest_layer": 4,
            "trainable_parameters": 3549698,
            "weights_bytes": 90855944,
            "gradient_bytes": 14198792,
            "optimizer_bytes": 28397584,
            "activation_bytes": 96337920,
            "prefix_cache_bytes": 166494720,
            "peak_memory_bytes": 396284960,
            "checkpoint_bytes": 14198792,
            "steps": 804,
            "seconds": {"first_epoch": 0.3, "later_epoch": 0.2, "rates": None, "total": 0.7},
        }
    ],
    "search": None,
}

USAGE: Json = {
    "worker_seconds": {"cpu": 9.214},
    "peak_memory_bytes": {"host": 903315456, "device": None},
}
NOTHING_USED: Json = {
    "worker_seconds": {},
    "peak_memory_bytes": {"host": None, "device": None},
}


def job_example(identifier: str, kind: str, path: str, spec: Json, result: Json | None) -> Json:
    """A job as it is answered: queued without a result, succeeded with one."""
    moment = "2026-11-23T10:00:00Z"
    return {
        "id": identifier,
        "kind": kind,
        "name": None,
        "metadata": {"team": "search"},
        "priority": 0,
        "status": "succeeded" if result else "queued",
        "phase": None,
        "terminal": result is not None,
        "progress": None,
        "queue": None if result else {"ahead": 0},
        "attempt": 1,
        "max_attempts": 3,
        "cancel_requested": False,
        "pause_requested": False,
        "error": None,
        "spec": spec,
        "resolved": {
            "model": {"id": MODEL_ID, "revision": None, "fingerprint": FINGERPRINT},
            "dataset": {
                "id": "glue/cola",
                "revision": None,
                "fingerprint": FINGERPRINT,
                "rows": {"train": 8551, "validation": 1043},
            },
            "digest": FINGERPRINT,
        },
        "result": result,
        "next_steps": [],
        "cached": False,
        "parent": None,
        "retry_of": None,
        "deadline_seconds": None,
        "created_at": moment,
        "queued_at": moment,
        "started_at": moment if result else None,
        "finished_at": moment if result else None,
        "updated_at": moment,
        "heartbeat_at": None,
        "transitions": [{"status": "queued", "at": moment, "reason": None}],
        "usage": {**(USAGE if result else NOTHING_USED), "stored_bytes": 1220 if result else 0},
        "warnings": [],
        "links": {"self": f"/v1/{path}/{identifier}", "events": f"/v1/jobs/{identifier}/events"},
    }


def _download_step(why: str) -> Json:
    path = f"/v1/checkpoints/{FINETUNE_RESULT['best_checkpoint']}/archive?form=full"
    return {"why": why, "method": "GET", "path": path, "body": None}


RANKING = job_example(
    "rk_01kasz3v7d9q6m8x2c4n5b7t1w",
    "ranking",
    "rankings",
    RANKING_BODIES["shortest"]["value"],
    RANKING_RESULT,
)
RANKING["next_steps"] = [
    {
        "why": "train the recommended layers",
        "method": "POST",
        "path": "/v1/finetunes",
        "body": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "top_k", "k": 1, "ranking": RANKING["id"]},
        },
    }
]
FINETUNE = job_example(
    "ft_01kaszb2e8r5t6y7u9i0p3a4s5",
    "finetune",
    "finetunes",
    FINETUNE_BODIES["top two"]["value"],
    FINETUNE_RESULT,
)
FINETUNE["next_steps"] = [_download_step("use the best checkpoint")]
SEARCH = job_example(
    "se_01kat1c2d3e4f5g6h7j8k9m0n1",
    "search",
    "searches",
    SEARCH_BODIES["shortest"]["value"],
    SEARCH_RESULT,
)
PREDICTION = job_example(
    "pd_01kat3p6q8r0s2t4v6w8x0y2z4",
    "prediction",
    "predictions",
    {"checkpoint": PREDICTION_BODIES["texts"]["value"]["checkpoint"], "top": 5},
    PREDICTION_RESULT,
)
EXPORT = job_example(
    "ex_01kat5r8t0u2v4w6x8y0z2a4b6",
    "export",
    "exports",
    {
        **EXPORT_BODIES["a folder"]["value"],
        "form": "full",
        "private": True,
        "revision": None,
        "message": None,
        "checkpoint": PREDICTION_BODIES["texts"]["value"]["checkpoint"],
    },
    EXPORT_RESULT,
)
JOB = RANKING
JOBS: Json = {"data": [RANKING], "next_cursor": None, "has_more": False}
EVENTS: Json = {
    "data": [
        {"seq": 1, "type": "status", "data": {"status": "queued"}, "at": "2026-11-23T10:00:00Z"}
    ],
    "next_cursor": None,
    "has_more": False,
    "next": "/v1/jobs/rk_01kasz3v7d9q6m8x2c4n5b7t1w/events?after=1&limit=50",
}
ATTEMPTS: Json = {
    "data": [
        {
            "number": 1,
            "epoch": 1,
            "worker": "gpu-1:4711",
            "started_at": "2026-11-23T10:00:00Z",
            "ended_at": "2026-11-23T10:00:09Z",
            "outcome": "succeeded",
            "error": None,
            "usage": USAGE,
            "log_bytes": 1220,
            "links": {"logs": "/v1/jobs/rk_01kasz3v7d9q6m8x2c4n5b7t1w/logs?attempt=1"},
        }
    ],
    "next_cursor": None,
    "has_more": False,
}
LOGS: Json = {
    "attempt": 1,
    "data": [
        {
            "at": "2026-11-23T10:00:00.012Z",
            "source": "supervisor",
            "text": "attempt 1 begins on gpu-1:4711",
        },
        {"at": "2026-11-23T10:00:01.377Z", "source": "job", "text": "10:00:01 load"},
    ],
    "next": 112,
    "cut_bytes": 0,
    "complete": False,
}
WORKERS: Json = {
    "data": [
        {
            "id": "gpu-1:4711",
            "kinds": ["ranking", "finetune", "search", "prediction", "export"],
            "devices": [{"name": "NVIDIA H200", "memory_bytes": 150754820096}],
            "precisions": ["fp32", "tf32", "bf16", "fp16"],
            "exports": ["folder", "mlflow", "hub"],
            "max_processes": 1,
            "version": "0.1.0",
            "alive": True,
            "busy": True,
            "job": "rk_01kasz3v7d9q6m8x2c4n5b7t1w",
            "started_at": "2026-11-23T09:00:00Z",
            "heartbeat_at": "2026-11-23T10:00:04Z",
            "stopped_at": None,
            "probe": {
                "device": "NVIDIA H200",
                "torch": "2.11.0+cu130",
                "speeds": [
                    {"precision": "fp32", "width": 384, "operations_per_second": 1.1e13},
                    {"precision": "bf16", "width": 384, "operations_per_second": 1.3e13},
                ],
                "failures": {},
                "seconds": 1.9,
            },
            "probed_at": "2026-11-23T09:00:11Z",
        }
    ],
    "next_cursor": None,
    "has_more": False,
}
_WAITING: Json = {
    "queued": 2,
    "running": 1,
    "paused": 0,
    "oldest_queued_at": "2026-11-23T10:00:00Z",
}
QUEUE: Json = {
    "kinds": {
        kind: {
            "project": _WAITING,
            "all": _WAITING,
            "workers_alive": 1,
            "workers_idle": 0,
            "expected_wait_seconds": None,
        }
        for kind in ("ranking", "finetune", "search", "prediction")
    }
}
METRICS: Json = {
    "data": [
        {
            "name": "train_loss",
            "step": 10,
            "epoch": 0.04,
            "value": 0.61,
            "at": "2026-11-23T10:00:09Z",
        }
    ],
    "next_cursor": None,
    "has_more": False,
    "next": "/v1/jobs/ft_01kaszb2e8r5t6y7u9i0p3a4s5/metrics?cursor=MQ&limit=200",
}
SELECTION: Json = {
    "ranking": RANKING["id"],
    "model": MODEL_ID,
    "granularity": "layer",
    "policy": "top_k",
    "k": 2,
    "share": None,
    "max_parameters": None,
    "format": "peft",
    "selection": {"layers_to_transform": [4, 5], "layers_pattern": "layer"},
    "matches": 32,
    "trainable_parameters": 3548928,
    "total_parameters": 22713216,
}
SEARCH_SELECTION: Json = {
    "search": SEARCH["id"],
    "model": MODEL_ID,
    "granularity": "layer",
    "learning_rate": 3e-4,
    "format": "peft",
    "selection": {"layers_to_transform": [1, 2], "layers_pattern": "layer"},
    "matches": 32,
    "trainable_parameters": 3548928,
    "total_parameters": 22713216,
}
MODEL: Json = {
    "id": MODEL_ID,
    "revision": None,
    "fingerprint": FINGERPRINT,
    "model_type": "bert",
    "architecture": "BertModel",
    "hidden_size": 384,
    "parameters": 22713216,
    "layers": [LAYER],
    "parts": {
        "sublayer": [
            {"name": "encoder.layer.5.attention", "index": 5, "parameters": 592128},
            {"name": "encoder.layer.5.feed_forward", "index": 5, "parameters": 1182336},
        ]
    },
    "groups": {"embeddings": 11919360, "pooler": 147840},
    "source": "mirror",
}
MODELS: Json = {"data": [{"id": MODEL_ID}], "hub": True}
TASK: Json = {
    "name": "glue/cola",
    "title": "Corpus of Linguistic Acceptability",
    "hub": "nyu-mll/glue",
    "config": "cola",
    "train": "train",
    "validation": "validation",
    "sizes": {"train": 8551, "validation": 1043},
    "columns": {"text": "sentence", "text_pair": None, "label": "label"},
    "raw_columns": None,
    "problem": "classification",
    "labels": ["unacceptable", "acceptable"],
    "metrics": ["matthews_correlation"],
    "evaluation_only": False,
    "train_on": None,
    "example": {
        "raw": {"sentence": "The kettle whistle loudly.", "label": 0},
        "formatted": [{"text": "The kettle whistle loudly.", "label": 0}],
    },
}
TASKS_PAGE: Json = {"data": [TASK]}
DATASET: Json = {
    "id": "ds_01kasz3v7d9q6m8x2c4n5b7t1w",
    "name": "sentences",
    "bytes": 91234,
    "source": "train.csv.gz",
    "reference": None,
    "note": None,
    "created_at": "2026-11-23T10:00:00Z",
    "problem": "classification",
    "columns": {"text": "sentence", "text_pair": None, "label": "label"},
    "inferred": ["columns", "problem", "validation"],
    "labels": ["bad", "good"],
    "rows": {"train": 900, "validation": 100},
    "label_counts": {"train": {"bad": 450, "good": 450}, "validation": {"bad": 50, "good": 50}},
    "label_range": None,
    "label_sets": None,
    "text_lengths": {
        "unit": "words",
        "bins": [0, 8, 16],
        "train": [310, 520, 70],
        "longest": 41,
        "longest_at": {"file": "train.csv.gz", "row": 372},
    },
    "duplicates": {"within_train": 1, "train_and_validation": 0, "conflicting_labels": 0},
    "warnings": [
        "rows of train that repeat an earlier row's text: 1; first: train.csv.gz row 118 (as row 7)"
    ],
    "findings": [
        {
            "code": "repeated_texts",
            "detail": "rows of train that repeat an earlier row's text: 1; "
            "first: train.csv.gz row 118 (as row 7)",
            "count": 1,
            "examples": [
                {"file": "train.csv.gz", "row": 118, "same_as": {"file": "train.csv.gz", "row": 7}}
            ],
        }
    ],
    "fingerprint": FINGERPRINT,
}
PREVIEW: Json = {
    "model": MODEL_ID,
    "dataset": DATASET["id"],
    "split": "train",
    "problem": "classification",
    "labels": ["bad", "good"],
    "max_length": 7,
    "rows": [
        {
            "row": 1,
            "sequences": [
                {
                    "tokens": ["[CLS]", "the", "kettle", "whistle", "loudly", "and", "[SEP]"],
                    "input_ids": [101, 1996, 22421, 13300, 9928, 1998, 102],
                    "token_type_ids": [0, 0, 0, 0, 0, 0, 0],
                    "length": 9,
                    "truncated": True,
                    "cut": ["long", "."],
                }
            ],
            "label": 0,
            "label_name": "bad",
            "label_names": None,
            "token_labels": None,
        }
    ],
    "lengths": {
        "unit": "tokens",
        "rows": 900,
        "sampled": 900,
        "bins": [0, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 8193],
        "counts": [310, 520, 70, *[0] * 9],
        "longest": 31,
        "truncated": 0.66,
        "suggested_max_length": 32,
    },
}
DATASETS: Json = {"data": [DATASET], "next_cursor": None, "has_more": False}
CHECKPOINT: Json = {
    "id": "ck_01kaszq0m3f4h5j6k7m8n9p0q1",
    "job": FINETUNE["id"],
    "step": 536,
    "epoch": 2.0,
    "form": "delta",
    "is_best": True,
    "pinned": False,
    "metrics": {"matthews_correlation": 0.31},
    "bytes": 14912345,
    "files": [
        {
            "name": "delta.safetensors",
            "bytes": 14200112,
            "sha256": "9f86d081…",
            "href": "/v1/checkpoints/ck_01kaszq0m3f4h5j6k7m8n9p0q1/files/delta.safetensors",
        }
    ],
    "created_at": "2026-11-23T10:02:00Z",
    "links": {"self": "/v1/checkpoints/ck_01kaszq0m3f4h5j6k7m8n9p0q1"},
}
CHECKPOINTS: Json = {"data": [CHECKPOINT]}


def answers(example: Json, *refusals: int, status: int = 200) -> dict[int | str, Json]:
    """The successful answer of an operation with its example, and its refusals."""
    content = {"application/json": {"example": example}}
    return {status: {"content": content, "description": SUCCESS[status]}, **problems(*refusals)}


def problems(*refusals: int) -> dict[int | str, Json]:
    """The statuses with which an operation can refuse a request, beside those that all have."""
    return {code: {"description": TITLES[code]} for code in refusals}


def body_examples(examples: Json) -> Any:
    """Declares the body of a request, with named examples."""
    return Body(openapi_examples=examples)


def _run(job: str, seed: int, metric: float, rate: float) -> Json:
    return {
        "job": job,
        "seed": seed,
        "status": "succeeded",
        "metric": metric,
        "learning_rate": rate,
        "checkpoint": "ck_01kaszq0m3f4h5j6k7m8n9p0q1",
        "error": None,
        "warnings": [],
    }


def _arm(name: str, layers: list[str], parameters: int, metrics: list[float], rate: float) -> Json:
    return {
        "name": name,
        "same_as": None,
        "trained_layers": layers,
        "metric": {"mean": sum(metrics) / len(metrics), "ci": [0.28, 0.35], "seeds": len(metrics)},
        "difference": None,
        "p_value": None,
        "verdict": None,
        "also": {},
        "adapter": None,
        "trainable_parameters": parameters,
        "total_parameters": 22713986,
        "seconds": {"load": 0.5, "rates": 192.3, "train": 80.1, "total": 282.9},
        "samples_per_second": 212.5,
        "peak_memory_bytes": 1073741824,
        "checkpoint_bytes": 4 * parameters,
        "runs": [
            _run(f"ft_01kaszb2e8r5t6y7u9i0p3a4s{seed}", seed, metric, rate)
            for seed, metric in enumerate(metrics)
        ],
    }


DECISION: Json = {
    "outcome": "undecided",
    "best": "all",
    "not_told_apart": ["top-2"],
    "cheapest": "top-2",
    "relative_cost": {"seconds": 0.71, "trainable_parameters": 0.3334, "peak_memory_bytes": 0.82},
    "job": "ft_01kaszb2e8r5t6y7u9i0p3a4s1",
    "checkpoint": "ck_01kaszq0m3f4h5j6k7m8n9p0q1",
    "others": [
        {
            "arm": "top-2",
            "difference": 0.06,
            "p_value": 0.1161,
            "told_apart": False,
            "needed": {"seeds": None, "validation_rows": 3601, "together": False},
        }
    ],
    "baseline": 0.0,
    "error_rate": 0.05,
    "summary": "Nothing is decided: all is highest, matthews_correlation 0.3700, but not told "
    "apart from top-2. Take top-2, the cheapest of these at 0.71 of the seconds, -0.0600 to all: "
    "ck_01kaszq0m3f4h5j6k7m8n9p0q1. To tell all from top-2 would take some 3,700 validation rows; "
    "more seeds alone would not do.",
}
COMPARISON_RESULT: Json = {
    "primary_metric": "matthews_correlation",
    "reference": "all",
    "noise": 0.027,
    "baseline": {"matthews_correlation": 0.0},
    "baseline_loss": 0.609,
    "baseline_also": {},
    "error_rate": 0.05,
    "arms": [
        {
            **_arm(
                "top-2", ["encoder.layer.4", "encoder.layer.5"], 3549698, [0.31, 0.32, 0.3], 3e-4
            ),
            "difference": {"mean": -0.06, "ci": [-0.09, -0.03], "seeds": 3},
            "p_value": 0.013,
            "verdict": "worse",
        },
        _arm("all", [f"encoder.layer.{i}" for i in range(6)], 10648322, [0.37, 0.38, 0.36], 1e-4),
    ],
    "decision": DECISION,
    "failures": [],
    "single_layers": None,
    "runs": 6,
    "seconds": 1697.4,
    "warnings": [],
}
COMPARISON = job_example(
    "cmp_01kat0a1b2c3d4e5f6g7h8j9k0",
    "comparison",
    "comparisons",
    COMPARISON_BODIES["against all"]["value"],
    COMPARISON_RESULT,
)
COMPARISON["next_steps"] = [_download_step("use the checkpoint of top-2, the arm to take")]
