"""Dagster assets: a ranking of a model's layers, and the model fine-tuned on the best two.

URL and API key come from the environment (`SURGEON_URL`, `SURGEON_API_KEY`), through a resource.
`dagster dev -f tuned_layers.py` shows both assets; `pip install layer-surgeon` beside Dagster.
"""

# Without `from __future__ import annotations`: Dagster reads the annotations themselves.
from collections.abc import Mapping
from typing import Any

import dagster as dg

from surgeon import ApiError, Client, JobFailed

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Tuning(dg.Config):
    """What to train, on what."""

    model: str = MODEL
    dataset: str = "glue/cola"  # a preset, or the id of an upload
    k: int = 2
    epochs: int = 3


class Surgeon(dg.ConfigurableResource):
    """The service."""

    url: str
    api_key: str

    def ended(
        self, context: dg.AssetExecutionContext, collection: str, body: Mapping[str, Any]
    ) -> Any:
        """The job of this run once it has succeeded; a retry of the run finds the same job.

        Where the run is terminated meanwhile, the job is cancelled. Raises Failure with the
        service's own words, which Dagster retries only where that may help.
        """
        run = f"dagster/{context.run.root_run_id or context.run_id}/{context.asset_key}"
        with Client(self.url, self.api_key) as client:
            try:
                job = client.start_once(collection, body, run=run)
            except ApiError as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            context.log.info("%s is %s", job.id, job.status)
            try:
                job.wait()
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                job.cancel()
                raise
        _check(job)
        return job


def _check(job: Any) -> None:
    try:
        job.result  # noqa: B018  # raises what went wrong
    except JobFailed as failed:
        error = failed.job["error"] or {}
        again = bool(failed.job["status"] == "failed" and error.get("retriable"))
        told = {"job": job.id, "problem": dg.MetadataValue.json(error)}
        raise dg.Failure(str(failed), metadata=told, allow_retries=again) from failed


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=2, delay=60))
def layer_ranking(
    context: dg.AssetExecutionContext, config: Tuning, surgeon: Surgeon
) -> dg.MaterializeResult:
    """The layers of the model, ranked on the dataset."""
    job = surgeon.ended(context, "rankings", {"model": config.model, "dataset": config.dataset})
    records = [
        dg.TableRecord({"rank": layer.rank, "layer": layer.name, "score": layer.score})
        for layer in job.result.layers
    ]
    return dg.MaterializeResult(
        value=job.id,
        metadata={
            "job": job.id,
            "layers": dg.MetadataValue.table(records),
            "recommended_k": job.result.recommended_k.k,
        },
    )


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=2, delay=60))
def tuned_model(
    context: dg.AssetExecutionContext, config: Tuning, surgeon: Surgeon, layer_ranking: str
) -> dg.MaterializeResult:
    """The model, fine-tuned on its best layers."""
    body = {
        "model": config.model,
        "dataset": config.dataset,
        "selection": {"policy": "top_k", "k": config.k, "ranking": layer_ranking},
        "training": {"epochs": config.epochs},
    }
    job = surgeon.ended(context, "finetunes", body)
    best = job.result.best
    return dg.MaterializeResult(
        value=job.result.best_checkpoint,
        metadata={
            "job": job.id,
            "checkpoint": job.result.best_checkpoint,
            "trained_layers": dg.MetadataValue.json(job.result.trained_layers),
            "epochs": best.epoch,
            **{name: value for name, value in best.metrics.items() if value is not None},
        },
    )


defs = dg.Definitions(
    assets=[layer_ranking, tuned_model],
    resources={
        "surgeon": Surgeon(url=dg.EnvVar("SURGEON_URL"), api_key=dg.EnvVar("SURGEON_API_KEY"))
    },
)
