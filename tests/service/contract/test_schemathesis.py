"""Requests made from the OpenAPI document: whatever is sent, the answer is one that it describes.

The API runs without workers, on data of a service that has run jobs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from surgeon.client import Client
from tests.support.models.mirror import TINY
from tests.support.service import only_not_found
from tests.support.service.services import Running, api_alone, embedded, production

OPERATOR = "sk_the-operator-of-this-test"
# A precondition may be checked before the body is read.
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "415", "422", "428", "429"]
# A request can be valid by its shape and still name what does not exist or does not go together.
ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "412", "415", "422", "429"]


@dataclass
class Filled:
    """A service, and the ids of what it holds."""

    running: Running
    ids: dict[str, list[str]]


def fill(running: Running) -> dict[str, list[str]]:
    """A ranking, a fine-tune with a checkpoint, a search, a prediction, an export, and an upload."""
    body = {"model": TINY, "dataset": "glue/rte"}
    ranking = running.run("rankings", {**body, "samples": 8, "bootstrap": 0, "model_prior": False})
    tuned = {**body, "selection": {"policy": "last_k", "k": 1}, "training": {"epochs": 1}}
    finetune = running.run("finetunes", tuned)
    searched = {"families": ["single"], "learning_rates": [1e-3], "budget_seconds": 1}
    search = running.run("searches", {**body, **searched, "training": {"epochs": 1}})
    checkpoint = finetune["result"]["best_checkpoint"]
    asked = {"checkpoint": checkpoint, "rows": [{"sentence1": "It rained.", "sentence2": "Wet."}]}
    prediction = running.run("predictions", asked)
    wanted = {"to": "folder", "target": "kept"}
    export = running.run(f"checkpoints/{checkpoint}/exports", wanted)
    upload = running.data / "rows.csv"
    upload.write_text("text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(20)))
    dataset = running.client.upload(upload).id
    return {
        "job_id": [ranking["id"], finetune["id"], search["id"], prediction["id"], export["id"]],
        "checkpoint_id": [checkpoint],
        "dataset_id": [dataset],
        "model_id": [TINY],
    }


@contextmanager
def _filled(request: pytest.FixtureRequest, data: Path, mirrors: str) -> Iterator[Filled]:
    if request.param == "embedded":
        with embedded(data, mirrors) as running:
            ids = fill(running)
        database = ""
    else:
        database = request.getfixturevalue("module_postgres")
        redis = request.getfixturevalue("redis_url")
        with production(data, mirrors, database, redis) as running:
            ids = fill(running)
    keys = {"SURGEON_API_KEY_HASHES": hashlib.sha256(OPERATOR.encode()).hexdigest()}
    with api_alone(data, mirrors, database, **keys) as running:
        yield Filled(running, ids)


SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=["embedded", pytest.param("production", marks=SLOW)])
def filled(
    request: pytest.FixtureRequest, few_mirrors: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    with _filled(request, tmp_path_factory.mktemp("filled"), few_mirrors) as filled:
        yield filled


def configured(folder: Path, filled: Filled, probability: float = 0.8) -> Path:
    """A configuration by which most requests name what exists."""
    accepted = json.dumps(ACCEPTED)
    lines = [
        f"checks.positive_data_acceptance.expected-statuses = {accepted}",
        f"checks.negative_data_rejection.expected-statuses = {json.dumps(REFUSED)}",
    ]
    for name, ids in filled.ids.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(ids)}"]
    lines.append("[parameters]")
    lines += [
        f'"path.{name}" = {{ dictionary = "{name}", probability = {probability} }}'
        for name in filled.ids
    ]
    path = folder / "schemathesis.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run_schemathesis(
    folder: Path, filled: Filled, *options: str, key: str = OPERATOR, probability: float = 0.8
) -> None:
    address = filled.running.client.url
    config = configured(folder, filled, probability)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{address}/openapi.json", "--no-color", "--seed", "1"]
    command += ["--header", f"Authorization: Bearer {key}"]
    command += ["--request-timeout", "120"]  # a preview opens a model, and the cores are shared
    command += ["--warnings", "off", "--continue-on-failure", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if "only_not_found" in options:
        environment["SCHEMATHESIS_HOOKS"] = only_not_found.__name__
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


@pytest.mark.timeout(600)
def test_every_answer_is_as_the_document_says(filled: Filled, tmp_path: Path) -> None:
    phases = ["--phases", "examples,fuzzing", "--max-examples", "1"]
    run_schemathesis(tmp_path, filled, "--checks", "all", *phases)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_answer_is_as_the_document_says_in_all_phases(filled: Filled, tmp_path: Path) -> None:
    run_schemathesis(tmp_path, filled, "--checks", "all", "--max-examples", "5")


@pytest.mark.timeout(600)
def test_nothing_of_another_project_exists(filled: Filled, tmp_path: Path) -> None:
    """With a key of a second project, every operation on an id of the first answers 404."""
    with Client(filled.running.client.url, OPERATOR) as operator:
        project = operator.call("POST", "/v1/projects", json={"name": "another"})["id"]
        body = {"project": project, "scopes": ["admin"]}
        key = operator.call("POST", "/v1/keys", json=body)["key"]
    named = [f"--include-path-regex={{({'|'.join(filled.ids)})}}", "--exclude-path-regex=models"]
    options = ["--checks", "only_not_found", "--mode", "positive", "--max-examples", "10"]
    run_schemathesis(tmp_path, filled, *named, *options, key=key, probability=1.0)
