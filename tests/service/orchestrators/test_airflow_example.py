"""The Airflow example in Airflow: a DAG that succeeds, one that fails, a retry, and kills."""

from __future__ import annotations

import json

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.orchestrators import (
    EXAMPLES,
    KEY,
    SCENARIOS,
    SENSELESS,
    Asked,
    Tool,
    tool,
)

pytestmark = pytest.mark.orchestrators
DAG = "tune_chosen_layers"


@pytest.fixture(scope="module")
def airflow(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """Airflow on a database of its own, with a connection to the service."""
    home = tmp_path_factory.mktemp("airflow")
    connection = {
        "conn_type": "http", "host": "127.0.0.1", "port": int(asked.client.url.split(":")[2]),
        "password": KEY,
    }  # fmt: skip
    made = tool(
        "airflow", home, AIRFLOW_HOME=str(home), AIRFLOW__CORE__LOAD_EXAMPLES="false",
        AIRFLOW__CORE__DAGS_FOLDER=str(EXAMPLES / "airflow"), NO_COLOR="1",
        AIRFLOW_CONN_LAYER_SURGEON=json.dumps(connection),
        PYTHONPATH=str(EXAMPLES / "airflow"), DATASET=asked.dataset, MODEL=TINY,
    )  # fmt: skip
    made.run("airflow", "db", "migrate")
    return made


def parameters(asked: Asked, model: str) -> str:
    return json.dumps({"model": model, "dataset": asked.dataset, "training": {"epochs": 2}})


def test_the_dag_ranks_and_tunes(airflow: Tool, asked: Asked) -> None:
    airflow.run("airflow", "dags", "test", DAG, "--conf", parameters(asked, TINY))
    ranking, tuned = asked.new_jobs()
    assert (ranking["kind"], ranking["status"]) == ("ranking", "succeeded")
    assert (tuned["kind"], tuned["status"]) == ("finetune", "succeeded")
    assert tuned["spec"]["selection"]["ranking"] == ranking["id"]


def test_a_job_that_fails_fails_its_task_with_its_own_words(airflow: Tool, asked: Asked) -> None:
    words = airflow.run(
        "airflow", "dags", "test", DAG, "--conf", parameters(asked, SENSELESS), code=1
    )
    (ranking,) = asked.new_jobs()
    assert ranking["status"] == "failed"
    assert f"AirflowFailException: {ranking['id']} failed: {ranking['error']['detail']}" in words
    assert "up_for_retry" not in words


def test_a_retry_finds_the_job_and_a_kill_cancels_it(airflow: Tool, asked: Asked) -> None:
    airflow.environment["AIRFLOW__CORE__DAGS_FOLDER"] = str(SCENARIOS / "airflow")
    words = airflow.run("airflow", "dags", "test", "cases")
    retried, timed_out, killed, left = map(asked.client.wait, asked.new_jobs())
    assert words.count(f"{retried['id']} is ") == 2, "both tries speak of it"
    assert [job["status"] for job in (retried, timed_out)] == ["succeeded", "cancelled"]
    assert [job["status"] for job in (killed, left)] == ["cancelled", "succeeded"]
