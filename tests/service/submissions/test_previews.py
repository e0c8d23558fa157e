"""Previews over HTTP: the process that makes them, and what it is kept from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.submissions import previews
from tests.support.models.mirror import REAL_MODEL, TINY
from tests.support.service.problems import Json, problem, says, upload


def preview(api: TestClient, dataset: str, model: str = TINY, **query: Any) -> Any:
    path = f"/v1/datasets/{dataset}/preview"
    return api.post(path, params={"model": model, **query})


@pytest.fixture
def dataset(api: TestClient) -> str:
    rows = "".join(f"{'word ' * n},{n % 2}\n" for n in range(1, 41))
    return str(upload(api, f"text,label\n{rows}").json()["id"])


def test_rows_are_shown_in_the_tokens_of_the_model(
    api: TestClient, dataset: str, mirror: Path
) -> None:
    answer = preview(api, dataset, REAL_MODEL, limit=3, max_length=8)
    assert answer.status_code == 200, answer.text
    shown: Json = answer.json()
    assert (shown["model"], shown["dataset"], shown["max_length"]) == (REAL_MODEL, dataset, 8)
    first, *_ = shown["rows"]
    assert len(shown["rows"]) == 3
    (sequence,) = first["sequences"]
    assert sequence["tokens"][0] == "[CLS]"
    assert set(sequence["tokens"][1:-1]) == {"word"}
    assert first["label_name"] == shown["labels"][first["label"]]
    train = api.get(f"/v1/datasets/{dataset}").json()["rows"]["train"]
    assert (shown["lengths"]["rows"], shown["lengths"]["sampled"]) == (train, train)
    assert sum(shown["lengths"]["counts"]) == train
    validation = preview(api, dataset, split="validation").json()
    assert validation["lengths"]["rows"] == 40 - train
    assert not list(api.app.state.service.settings.data_dir.glob("requests/*"))  # type: ignore[attr-defined]


def test_a_large_dataset_is_sampled(
    api: TestClient, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "SAMPLED_ROWS", 6)
    lengths = preview(api, dataset, limit=2).json()["lengths"]
    assert 6 <= lengths["sampled"] <= 10 < lengths["rows"]
    monkeypatch.setattr(previews, "SAMPLED_CHARACTERS", 1)
    shown = preview(api, dataset, limit=4).json()
    assert (len(shown["rows"]), shown["lengths"]["sampled"]) == (1, 1)


def test_what_cannot_be_shown_is_refused(api: TestClient, dataset: str) -> None:
    problem(preview(api, "ds_none"), 404, "not_found")
    says(problem(preview(api, dataset, "no/such"), 422, "model_not_found"), "/model", "no/such")
    missing = api.post(f"/v1/datasets/{dataset}/preview")
    says(problem(missing, 422, "invalid"), "/model", "required")
    says(problem(preview(api, dataset, limit=21), 422, "invalid"), "/limit", "20")
    near = problem(preview(api, dataset, max_lenght=9), 422, "invalid")
    says(near, "/max_lenght", "max_length")


def test_a_preset_is_refused_with_what_to_do(api: TestClient) -> None:
    """The advice is right: what it stores can be previewed."""
    refused = problem(preview(api, "glue/rte"), 404, "not_found")
    assert "'glue/rte' is a preset" in refused["detail"]
    hub = problem(preview(api, "org/name"), 404, "not_found")["detail"]
    assert 'POST /v1/datasets with {"hub": "org/name", "config": null}' in hub
    told = re.search(r"{.*}", refused["detail"])
    assert told is not None
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    body = {**json.loads(told[0]), "columns": columns}
    stored = api.post("/v1/datasets", json=body)
    assert stored.status_code == 201, stored.text
    assert preview(api, stored.json()["id"]).status_code == 200


def test_a_tokenizer_that_never_ends_is_stopped(
    api: TestClient, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "TIMEOUT_SECONDS", 0.01)
    stopped = problem(preview(api, dataset), 422, "model_unsupported")
    assert "too long" in stopped["detail"]


def test_the_process_is_told_no_secret(
    api: TestClient, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("SURGEON_DATABASE_URL", "postgresql://canary")
    seen: list[dict[str, str]] = []
    run = previews.subprocess.run

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(options["env"])
        return run(*args, **options)

    monkeypatch.setattr(previews.subprocess, "run", watched)
    assert preview(api, dataset).status_code == 200
    assert "canary" not in str(seen)


def test_a_tokenizer_that_does_not_load_is_refused(
    api: TestClient, dataset: str, mirror: Path
) -> None:
    broken = mirror / "models" / "broken" / "tokenizer"
    shutil.copytree(mirror / "models" / TINY, broken, dirs_exist_ok=True)
    for name in ("tokenizer.json", "vocab.txt"):
        (broken / name).unlink()
    refused = preview(api, dataset, "broken/tokenizer")
    assert refused.status_code == 422, refused.text
    assert refused.json()["code"] == "model_unsupported"
    says(refused.json(), "/model", "tokenizer")
