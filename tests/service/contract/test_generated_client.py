"""A client that openapi-python-client generates from the document runs a ranking."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.models.mirror import TINY
from tests.support.service.services import Running, wait_until

PACKAGE = "generated_surgeon"


@pytest.fixture
def generated(
    embedded_service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, str]:
    """The generated package, and what the generator said."""
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(embedded_service.client.call("GET", "/openapi.json")))
    config = tmp_path / "config.yml"
    options = {
        "package_name_override": PACKAGE,
        # The generator knows the one as bytes and the other not at all.
        "content_type_overrides": {"application/x-tar": "application/octet-stream"},
        "post_hooks": [],
    }
    config.write_text(yaml.safe_dump(options))
    command = [sys.executable, "-m", "openapi_python_client", "generate"]
    command += ["--path", str(document), "--config", str(config)]
    command += ["--output-path", str(tmp_path / "client")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(tmp_path / "client")
    return importlib.import_module(PACKAGE), done.stdout + done.stderr


def test_a_generated_client_runs_a_ranking(
    generated: tuple[Any, str], embedded_service: Running
) -> None:
    package, said = generated
    assert "WARNING" not in said, said  # every operation and every answer was understood
    create = importlib.import_module(f"{PACKAGE}.api.rankings.create_ranking")
    get = importlib.import_module(f"{PACKAGE}.api.rankings.get_ranking")
    models = importlib.import_module(f"{PACKAGE}.models")
    body = models.RankingSpec.from_dict(
        {"model": TINY, "dataset": "glue/rte", "samples": 8, "bootstrap": 0, "model_prior": False}
    )
    with package.Client(base_url=embedded_service.client.url) as client:
        answer = create.sync_detailed(client=client, body=body)
        assert answer.status_code == 202
        assert isinstance(answer.parsed, models.JobView)
        job = answer.parsed.id
        wait_until(lambda: get.sync(job, client=client).terminal, 120, embedded_service.logs)
        ranking = get.sync(job, client=client)
        assert (ranking.status, ranking.error) == ("succeeded", None)
        assert [layer["rank"] for layer in ranking.to_dict()["result"]["layers"]] == [1, 2, 3, 4]
        wrong = models.RankingSpec.from_dict({"model": "no/model", "dataset": "glue/rte"})
        refused = create.sync(client=client, body=wrong)
        assert isinstance(refused, models.ProblemDetails)
        assert refused.errors[0].pointer == "/model"
