"""An asset whose first try dies after its job was started: what Dagster makes of its retry."""

import os

import dagster as dg
from tuned_layers import Surgeon


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def dying(context: dg.AssetExecutionContext, surgeon: Surgeon) -> str:
    """The first try ends when its job has."""
    body = {
        "model": os.environ["MODEL"],
        "dataset": os.environ["DATASET"],
        "selection": {"policy": "last_k", "k": 1},
        "training": {"epochs": 3},
    }
    job = surgeon.ended(context, "finetunes", body)
    if not context.retry_number:
        raise RuntimeError(f"the process of {job.id} died")
    return str(job.id)


defs = dg.Definitions(
    assets=[dying],
    resources={
        "surgeon": Surgeon(url=dg.EnvVar("SURGEON_URL"), api_key=dg.EnvVar("SURGEON_API_KEY"))
    },
)
