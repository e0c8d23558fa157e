"""The Prefect example in Prefect: flows that succeed and fail, a retry, and a termination."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
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
CASES = ("python", str(SCENARIOS / "prefect_cases.py"))


@pytest.fixture(scope="module")
def prefect(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """Prefect with a server's database of its own, which holds the key."""
    home = tmp_path_factory.mktemp("prefect")
    made = tool(
        "prefect", home, PREFECT_HOME=str(home), SURGEON_URL=asked.client.url, DATASET=asked.dataset,
        MODEL=TINY, SENSELESS=SENSELESS, PYTHONPATH=str(EXAMPLES / "prefect"),
    )  # fmt: skip
    made.run(*CASES, "set_up", given=KEY)
    yield made
    kill_servers(home)


def kill_servers(home: Path) -> None:
    """End the temporary servers that runs have left which were killed themselves."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT_HOME") == str(home):
                process.kill()


def test_the_flow_ranks_and_tunes(prefect: Tool, asked: Asked) -> None:
    words = prefect.run(*CASES, "tune")
    ranking, tuned = asked.new_jobs()
    assert tuned["spec"]["selection"]["ranking"] == ranking["id"]
    assert str(tuned["result"]["trained_layers"]) in words


def test_a_job_that_fails_fails_its_task_with_its_own_words(prefect: Tool, asked: Asked) -> None:
    words = prefect.run(*CASES, "fail", code=1)
    (ranking,) = asked.new_jobs()
    assert f"JobFailed: {ranking['id']} failed: {ranking['error']['detail']}" in words
    assert "AwaitingRetry" not in words


def test_a_retry_finds_the_job(prefect: Tool, asked: Asked) -> None:
    words = prefect.run(*CASES, "retry")
    (job,) = asked.new_jobs()
    assert f"the process of {job['id']} died" in words
    assert words.count(f"{job['id']} is ") == 2, "both tries speak of it"


def test_a_run_that_is_terminated_cancels_its_job(prefect: Tool, asked: Asked) -> None:
    prefect.killed_while_training(asked, signal.SIGTERM, *CASES, "forever")
