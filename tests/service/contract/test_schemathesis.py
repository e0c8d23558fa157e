"""Requests made from the OpenAPI document: whatever is sent, the answer is one that it describes.

The API runs without workers, on data of a service that has run jobs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running, api_alone, embedded, production

# A request can be valid by its shape and still name what does not exist or does not go together.
ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "412", "415", "422", "429"]


@dataclass
class Filled:
    """A service, and the ids of what it holds."""

    running: Running
    ids: dict[str, list[str]]


def fill(running: Running) -> dict[str, list[str]]:
    """A ranking, a fine-tune with a checkpoint, and an upload."""
    body = {"model": TINY, "dataset": "glue/rte"}
    ranking = running.run("rankings", {**body, "samples": 8, "bootstrap": 0, "model_prior": False})
    tuned = {**body, "selection": {"policy": "last_k", "k": 1}, "training": {"epochs": 1}}
    finetune = running.run("finetunes", tuned)
    checkpoint = finetune["result"]["best_checkpoint"]
    upload = running.data / "rows.csv"
    upload.write_text("text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(20)))
    dataset = running.client.upload(upload, None)["id"]
    return {
        "job_id": [ranking["id"], finetune["id"]],
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
    with api_alone(data, mirrors, database) as running:
        yield Filled(running, ids)


@pytest.fixture(scope="module", params=["embedded", "production"])
def filled(
    request: pytest.FixtureRequest, few_mirrors: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    with _filled(request, tmp_path_factory.mktemp("filled"), few_mirrors) as filled:
        yield filled


def configured(folder: Path, filled: Filled) -> Path:
    """A configuration by which most requests name what exists."""
    accepted = json.dumps(ACCEPTED)
    lines = [f"checks.positive_data_acceptance.expected-statuses = {accepted}"]
    for name, ids in filled.ids.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(ids)}"]
    lines.append("[parameters]")
    lines += [
        f'"path.{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in filled.ids
    ]
    path = folder / "schemathesis.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run_schemathesis(folder: Path, filled: Filled, *options: str) -> None:
    address = filled.running.client.url
    config = configured(folder, filled)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{address}/openapi.json", "--checks", "all", "--no-color", "--seed", "1"]
    command += ["--warnings", "off", "--continue-on-failure", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


@pytest.mark.timeout(600)
def test_every_answer_is_as_the_document_says(filled: Filled, tmp_path: Path) -> None:
    run_schemathesis(tmp_path, filled, "--max-examples", "5")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_answer_is_as_the_document_says_of_many(filled: Filled, tmp_path: Path) -> None:
    run_schemathesis(tmp_path, filled, "--max-examples", "100")
