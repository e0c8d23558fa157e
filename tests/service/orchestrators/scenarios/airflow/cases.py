"""A DAG whose tasks die after they have started a job, run out of time, and are killed waiting."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any

from airflow.exceptions import AirflowException
from airflow.sdk import DAG, task
from layer_surgeon import SurgeonJobOperator, SurgeonJobTrigger, client_of


class Dying(SurgeonJobOperator):
    """Its first try ends when its job has."""

    def execute(self, context: Any) -> Any:
        found = super().execute(context)
        if context["ti"].try_number == 1:
            raise AirflowException(f"the worker of {found['id']} died")
        return found


def body(epochs: int) -> dict[str, Any]:
    return {
        "model": os.environ["MODEL"],
        "dataset": os.environ["DATASET"],
        "selection": {"policy": "last_k", "k": 1},
        "training": {"epochs": epochs},
    }


@task(retries=0)
def killed() -> None:
    """What a triggerer does to a task that somebody sets to failed while it waits."""
    with client_of("layer_surgeon") as client:
        started = client.submit("finetunes", body(500))
        others = client.submit("finetunes", body(2))
    asyncio.run(waited_and_killed(SurgeonJobTrigger(started["id"])))
    asyncio.run(waited_and_killed(SurgeonJobTrigger(others["id"], owned=False)))


async def waited_and_killed(trigger: SurgeonJobTrigger) -> None:
    waiting = asyncio.ensure_future(anext(trigger.run()))
    await asyncio.sleep(0)
    waiting.cancel()
    await trigger.on_kill()


with DAG("cases", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}):
    common = {"collection": "finetunes", "deferrable": False}
    retried = Dying(task_id="retried", body=body(3), **common)
    timed_out = SurgeonJobOperator(
        task_id="timed_out",
        body=body(500),
        retries=0,
        execution_timeout=timedelta(seconds=3),
        **common,
    )
    retried >> timed_out
    timed_out >> killed.override(trigger_rule="all_done")()
