"""The presets over HTTP: what is told of them, and every one that the mirror holds put to work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from models import TINY
from services import Running

from surgery.tasks import TASKS

TRAINED = [task for task in TASKS.values() if task.train_on is None]
RANKING: dict[str, Any] = {
    "model": TINY, "samples": 32, "max_length": 64, "head": {"warmup_samples": 32},
    "model_prior": False,
}  # fmt: skip
TUNING: dict[str, Any] = {
    "model": TINY, "selection": {"policy": "last_k", "k": 1},
    "training": {"max_steps": 3, "max_length": 64, "batch_size": 8},
}  # fmt: skip


def test_the_list_tells_sizes_metrics_and_what_a_model_reads(api: TestClient) -> None:
    tasks = {task["name"]: task for task in api.get("/v1/tasks").json()["data"]}
    assert set(tasks) == set(TASKS)
    record = tasks["super_glue/record"]
    assert api.get("/v1/tasks/super_glue/record").json() == record
    assert record["sizes"] == {"train": 100_730, "validation": 10_000}
    assert record["metrics"] == ["f1", "exact_match"]
    assert record["raw_columns"] == ["passage", "query", "entities", "answers", "idx"]
    assert "@placeholder" in record["example"]["raw"]["query"]
    formatted = record["example"]["formatted"]
    assert [row["label"] for row in formatted] == [0, 1]
    assert formatted[1]["text_pair"] == "In the evening Lund Choir sang in front of the town hall."
    assert tasks["glue/cola"]["raw_columns"] is None


def test_diagnostics_are_listed_and_refused(api: TestClient) -> None:
    tasks = {task["name"]: task for task in api.get("/v1/tasks").json()["data"]}
    only = {name: task for name, task in tasks.items() if task["evaluation_only"]}
    assert {name: task["train_on"] for name, task in only.items()} == {
        "glue/ax": "glue/mnli", "super_glue/axb": "super_glue/rte",
        "super_glue/axg": "super_glue/rte",
    }  # fmt: skip
    for name, task in only.items():
        assert (task["train"], task["validation"]) == (None, "test")
        for path, body in (("rankings", RANKING), ("finetunes", TUNING)):
            answer = api.post(f"/v1/{path}", json={**body, "dataset": name})
            assert (answer.status_code, answer.json()["code"]) == (422, "dataset_invalid")
            [fault] = answer.json()["errors"]
            assert fault["pointer"] == "/dataset"
            assert f"Name {task['train_on']} as the dataset" in fault["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TRAINED, ids=[task.name for task in TRAINED])
def test_every_preset_of_the_mirror_ranks_and_trains(embedded_service: Running, task: Any) -> None:
    given = os.environ.get("SURGEON_MIRROR_DIR", "")
    roots = [Path(part) for part in given.split(os.pathsep) if part]
    places = [root / "datasets" / task.hub / task.config for root in roots]
    if not any(place.is_dir() for place in places):
        pytest.skip(f"SURGEON_MIRROR_DIR does not hold {task.name}")
    ranking = embedded_service.run("rankings", {**RANKING, "dataset": task.name})
    assert len(ranking["result"]["layers"]) == 4
    tuned = embedded_service.run("finetunes", {**TUNING, "dataset": task.name})
    result = tuned["result"]
    assert result["primary_metric"] == task.metrics[0]
    measured = result["best"]["metrics"]
    assert set(measured) == set(task.metrics)
    assert all(value is None or -1 <= value <= 1 for value in measured.values())
