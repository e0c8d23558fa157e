"""Flow runs of the Prefect example: CASE is set_up, tune, fail, retry or forever."""

from __future__ import annotations

import os
import sys

from prefect import flow
from prefect.blocks.system import Secret
from prefect.runtime import flow_run
from prefect.variables import Variable
from tune_chosen_layers import SECRET, URL, run_job, tune_chosen_layers

DATASET, MODEL = os.environ["DATASET"], os.environ["MODEL"]


@flow(retries=1)
def dying() -> str:
    """The first try ends when its job has."""
    selection = {"policy": "last_k", "k": 1}
    body = {"model": MODEL, "dataset": DATASET, "selection": selection}
    found = run_job("finetunes", {**body, "training": {"epochs": 3}})
    if flow_run.run_count == 1:
        raise RuntimeError(f"the process of {found['id']} died")
    return str(found["id"])


def main(case: str) -> None:
    """Run one of them."""
    if case == "set_up":
        Secret(value=sys.stdin.read()).save(SECRET)
        Variable.set(URL, os.environ["SURGEON_URL"])
    elif case == "tune":
        tuned = tune_chosen_layers(model=MODEL, dataset=DATASET, epochs=2)
        sys.stdout.write(f"{tuned['result']['trained_layers']}\n")
    elif case == "fail":
        tune_chosen_layers(model=os.environ["SENSELESS"], dataset=DATASET)
    elif case == "retry":
        dying()
    else:
        tune_chosen_layers(model=MODEL, dataset=DATASET, epochs=500)


main(sys.argv[1])
