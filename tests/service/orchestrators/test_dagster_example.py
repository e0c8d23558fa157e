"""The Dagster example in Dagster: assets that succeed and fail, a retry, and a termination."""

from __future__ import annotations

import json
import signal

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
ASSETS = EXAMPLES / "dagster/tuned_layers.py"
# Prints what Dagster keeps of the assets: what its pages show.
SHOW = """
import dagster as dg
instance = dg.DagsterInstance.get()
for name in ("layer_ranking", "tuned_model"):
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    print({key: value.value for key, value in event.asset_materialization.metadata.items()})
"""


@pytest.fixture(scope="module")
def dagster(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """Dagster with a folder of its own."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return tool(
        "dagster", home, DAGSTER_HOME=str(home), SURGEON_URL=asked.client.url, SURGEON_API_KEY=KEY,
        PYTHONPATH=str(ASSETS.parent), DATASET=asked.dataset, MODEL=TINY,
    )  # fmt: skip


def materialize(asked: Asked, model: str, epochs: int) -> list[str]:
    """The command that makes both assets."""
    common = {"model": model, "dataset": asked.dataset}
    given = {
        "layer_ranking": {"config": common},
        "tuned_model": {"config": {**common, "epochs": epochs}},
    }
    words = ["dagster", "asset", "materialize", "--select", "*", "-f", str(ASSETS)]
    return [*words, "--config-json", json.dumps({"ops": given})]


def test_the_assets_are_made_and_described(dagster: Tool, asked: Asked) -> None:
    dagster.run(*materialize(asked, TINY, 2))
    ranking, tuned = asked.new_jobs()
    assert tuned["spec"]["selection"]["ranking"] == ranking["id"]
    shown = dagster.run("python", "-c", SHOW)
    assert all(layer["name"] in shown for layer in ranking["result"]["layers"])
    assert tuned["result"]["best_checkpoint"] in shown
    assert str(tuned["result"]["trained_layers"]) in shown


def test_a_job_that_fails_fails_its_asset_with_its_own_words(dagster: Tool, asked: Asked) -> None:
    words = dagster.run(*materialize(asked, SENSELESS, 2), code=1)
    (ranking,) = asked.new_jobs()
    assert f"{ranking['id']} failed: {ranking['error']['detail']}" in words
    assert "STEP_UP_FOR_RETRY" not in words


def test_a_retry_finds_the_job(dagster: Tool, asked: Asked) -> None:
    cases = str(SCENARIOS / "dagster_cases.py")
    words = dagster.run("dagster", "asset", "materialize", "--select", "*", "-f", cases)
    (job,) = asked.new_jobs()
    assert f"the process of {job['id']} died" in words
    assert f"{job['id']} is succeeded" in words


def test_a_run_that_is_terminated_cancels_its_job(dagster: Tool, asked: Asked) -> None:
    dagster.killed_while_training(asked, signal.SIGINT, *materialize(asked, TINY, 500))
