"""Examples of requests and answers in OpenAI's shapes."""

from __future__ import annotations

from typing import Any

from app.api.examples.bodies import MODEL_ID

Json = dict[str, Any]
_FILE_ID, _JOB_ID = "ds_01kasz3v7d9q6m8x2c4n5b7t1w", "ft_01kaszm2h6k8p0r3s5v7x9z1b4"
_CHECKPOINT_ID = "ck_01kaszq0m3f4h5j6k7m8n9p0q1"
_SURGICAL: Json = {"selection": {"policy": "top_k", "k": 2}, "training": {"epochs": 3}}
REQUESTS: Json = {
    "top layers": {
        "summary": "Train the two layers that a ranking puts first",
        "value": {
            "model": MODEL_ID,
            "training_file": _FILE_ID,
            "method": {"type": "surgical", "surgical": _SURGICAL},
        },
    }
}
FILE: Json = {
    "id": _FILE_ID,
    "object": "file",
    "bytes": 91234,
    "created_at": 1795428000,
    "filename": "train.jsonl",
    "purpose": "fine-tune",
    "status": "processed",
    "status_details": None,
}
DELETED_FILE: Json = {"id": _FILE_ID, "object": "file", "deleted": True}
JOB: Json = {
    "id": _JOB_ID,
    "object": "fine_tuning.job",
    "created_at": 1795428000,
    "finished_at": 1795428100,
    "estimated_finish": None,
    "status": "succeeded",
    "error": None,
    "model": MODEL_ID,
    "fine_tuned_model": _CHECKPOINT_ID,
    "organization_id": "pr_default",
    "training_file": _FILE_ID,
    "validation_file": None,
    "result_files": [],
    "trained_tokens": None,
    "seed": 0,
    "suffix": None,
    "metadata": {},
    "hyperparameters": {"n_epochs": 3, "batch_size": 32},
    "method": {"type": "surgical", "surgical": _SURGICAL},
}
_EVENT: Json = {
    "id": "ev_12",
    "object": "fine_tuning.job.event",
    "created_at": 1795428100,
    "level": "info",
    "message": "The job is succeeded.",
    "type": "message",
    "data": {"type": "status", "status": "succeeded"},
}
_CHECKPOINT: Json = {
    "id": _CHECKPOINT_ID,
    "object": "fine_tuning.job.checkpoint",
    "created_at": 1795428090,
    "fine_tuned_model_checkpoint": _CHECKPOINT_ID,
    "fine_tuning_job_id": _JOB_ID,
    "step_number": 268,
    "metrics": {"step": 268.0, "accuracy": 0.91},
}


def _listed(entry: Json) -> Json:
    return {"object": "list", "data": [entry], "has_more": False}


FILES, JOBS, EVENTS, CHECKPOINTS = map(_listed, (FILE, JOB, _EVENT, _CHECKPOINT))
