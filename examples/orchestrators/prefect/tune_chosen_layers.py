"""A Prefect flow that ranks a model's layers on a dataset and fine-tunes the best two.

The API key comes from a Prefect block of type Secret (`layer-surgeon-api-key`), the URL from a
Prefect variable (`layer_surgeon_url`). `pip install layer-surgeon` beside Prefect.
"""

from __future__ import annotations

from typing import Any

from prefect import Task, flow, task
from prefect.blocks.system import Secret
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.variables import Variable

from surgeon import ApiError, Client, JobFailed

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SECRET, URL = "layer-surgeon-api-key", "layer_surgeon_url"


def client_of_service() -> Client:
    """A client with the URL and the key that Prefect keeps."""
    return Client(str(Variable.get(URL)), Secret.load(SECRET).get())


def may_help(task: Task, run: Any, state: Any) -> bool:  # noqa: ARG001  # Prefect's own names
    """Whether a task is tried again: not where the same request would fail again."""
    failed = state.result(raise_on_failure=False)
    if isinstance(failed, JobFailed):
        error = failed.job["error"] or {}
        return bool(failed.job["status"] == "failed" and error.get("retriable"))
    return not isinstance(failed, ApiError)


@task(retries=2, retry_delay_seconds=60, retry_condition_fn=may_help)
def run_job(collection: str, body: dict[str, Any]) -> dict[str, Any]:
    """The id and the result of a job; tries of this task, and of its flow run, share the job.

    Raises JobFailed with the service's own words. The job is cancelled when the run is.
    """
    with client_of_service() as client:
        job = client.start_once(collection, body, run=f"prefect/{flow_run.id}")
        get_run_logger().info("%s is %s", job.id, job.status)
        try:
            job.wait()
        except (KeyboardInterrupt, TerminationSignal):
            job.cancel()
            raise
        job.result  # noqa: B018  # raises what went wrong
        return {"id": job.id, "result": job.document["result"]}


@flow
def tune_chosen_layers(
    model: str = MODEL, dataset: str = "glue/cola", k: int = 2, epochs: int = 3
) -> dict[str, Any]:
    """The fine-tune of the k best layers."""
    ranking = run_job.with_options(name="rank")("rankings", {"model": model, "dataset": dataset})
    selection = {"policy": "top_k", "k": k, "ranking": ranking["id"]}
    body = {"model": model, "dataset": dataset, "selection": selection}
    return run_job.with_options(name="tune")("finetunes", {**body, "training": {"epochs": epochs}})
