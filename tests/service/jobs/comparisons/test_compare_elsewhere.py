"""Comparisons whose runs are measured on other presets too, over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from surgeon.cli import app
from surgeon.terminal import terminal
from tests.support.models.mirror import TINY
from tests.support.rows.nli import put_nli
from tests.support.service.problems import problem, says
from tests.support.service.services import Running

ALSO = ["super_glue/axb", "super_glue/axg"]


@pytest.fixture(scope="module")
def mirrors(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    own = tmp_path_factory.mktemp("nli")
    put_nli(own)
    return os.pathsep.join((str(mirror), str(own)))


def body(*also: str) -> dict[str, Any]:
    policies = ("head_only", "all")
    return {
        "model": TINY, "dataset": "super_glue/rte", "seeds": [0, 1], "also_evaluate": list(also),
        "arms": [{"name": policy, "selection": {"policy": policy}} for policy in policies],
    }  # fmt: skip


def test_every_run_of_every_arm_is_told_what_to_measure(api: TestClient) -> None:
    answer = api.post("/v1/comparisons", json=body(*ALSO))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    pinned = job["resolved"]["also_evaluate"]
    assert [each["id"] for each in pinned] == ALSO
    runs = api.get(job["links"]["children"]).json()["data"]
    assert len(runs) == 4
    for run in runs:
        assert run["spec"]["also_evaluate"] == ALSO
        assert run["resolved"]["also_evaluate"] == pinned
    plain = api.post("/v1/comparisons?validate_only=true", json=body()).json()
    assert "also_evaluate" not in plain["resolved"]


@pytest.mark.parametrize(
    ("also", "pointer", "code", "words"),
    [
        ([*ALSO, "glue/axx"], "/also_evaluate/2", "dataset_not_found", "did you mean 'glue/ax'?"),
        (["super_glue/rte"], "/also_evaluate/0", "dataset_invalid", "the dataset itself"),
        (["glue/ax"], "/also_evaluate/0", "dataset_invalid", "the labels of"),
        (["glue/ax"] * 9, "/also_evaluate", "invalid", "at most 8"),
    ],
)
def test_what_does_not_fit_is_refused_once_and_not_for_each_arm(
    api: TestClient, also: list[str], pointer: str, code: str, words: str
) -> None:
    found = problem(api.post("/v1/comparisons", json=body(*also)), 422, code)
    says(found, pointer, words)
    assert len(found["errors"]) == 1


@pytest.mark.slow
def test_the_command_shows_what_each_arm_reached(
    own_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.console, "width", 80)
    command = [
        "compare", TINY, "super_glue/rte", "--arm", "head_only", "--arm", "last_k=1", "--seeds",
        "0", "--epochs", "1", "--max-length", "48", "--url", own_service.client.url,
        *[part for name in ALSO for part in ("--also-evaluate", name)],
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    assert "on super_glue/axb arm matthews_correlation" in told
    assert "on super_glue/axg arm accuracy gender_parity" in told
    (job,) = own_service.client.call("GET", "/v1/comparisons")["data"]
    arms = own_service.client.call("GET", f"/v1/jobs/{job['id']}")["result"]["arms"]
    for arm in arms:
        run = own_service.client.job(arm["runs"][0]["job"])
        reached = run["result"]["best"]["also"]["super_glue/axg"]["gender_parity"]
        assert arm["also"]["super_glue/axg"]["gender_parity"]["mean"] == reached
        assert f"{reached:.4f}" in told
