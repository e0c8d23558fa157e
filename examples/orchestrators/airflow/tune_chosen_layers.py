"""A DAG that ranks a model's layers on a dataset and fine-tunes the two that are ranked highest."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from layer_surgeon import SurgeonJobOperator, SurgeonJobSensor

MODEL = "sentence-transformers/all-MiniLM-L6-v2"

with DAG(
    "tune_chosen_layers",
    schedule=None,
    params={
        "model": Param(MODEL, type="string"),
        "dataset": Param("glue/cola", type="string", description="a preset, or an upload's id"),
        "training": Param({"epochs": 3}, type="object"),
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    render_template_as_native_obj=True,  # so that a parameter may be an object
):
    rank = SurgeonJobOperator(
        task_id="rank",
        collection="rankings",
        body={"model": "{{ params.model }}", "dataset": "{{ params.dataset }}"},
    )
    tune = SurgeonJobOperator(
        task_id="tune",
        collection="finetunes",
        body={
            "model": "{{ params.model }}",
            "dataset": "{{ params.dataset }}",
            "selection": {
                "policy": "top_k",
                "k": 2,
                "ranking": "{{ ti.xcom_pull('rank')['id'] }}",
            },
            "training": "{{ params.training }}",
        },
        wait=False,
    )
    tuned = SurgeonJobSensor(task_id="tuned", job_id="{{ ti.xcom_pull('tune')['id'] }}")
    rank >> tune >> tuned
