"""The presets over HTTP: what is told of them, and every one that the mirror holds put to work."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from surgery.data.presets.tasks import TASKS, Task
from tests.support.models.mirror import REAL_MODEL, TINY
from tests.support.rows.invented import INVENTED
from tests.support.service.services import Running

RANKING: dict[str, Any] = {
    "model": TINY, "samples": 32, "max_length": 64, "head": {"warmup_samples": 32},
    "model_prior": False,
}  # fmt: skip
TUNING: dict[str, Any] = {
    "model": TINY, "selection": {"policy": "last_k", "k": 1},
    "training": {"max_steps": 3, "max_length": 64, "batch_size": 8},
}  # fmt: skip
REAL_RANKING = {**RANKING, "model": REAL_MODEL}
REAL_TUNING = {
    "model": REAL_MODEL,
    "training": {"epochs": 1, "max_steps": 8, "max_length": 64, "batch_size": 16},
}
SECONDS = 220
CORRELATIONS = {"matthews_correlation", "pearson", "spearman"}
# As the benchmarks' own pages have them, the first deciding.
OFFICIAL = {
    "glue/cola": ["matthews_correlation"],
    "glue/sst2": ["accuracy"],
    "glue/mrpc": ["accuracy", "f1"],
    "glue/qqp": ["accuracy", "f1"],
    "glue/stsb": ["pearson", "spearman", "rmse", "mae"],
    "glue/mnli": ["accuracy"],
    "glue/mnli_mismatched": ["accuracy"],
    "glue/qnli": ["accuracy"],
    "glue/rte": ["accuracy"],
    "glue/wnli": ["accuracy"],
    "super_glue/boolq": ["accuracy"],
    "super_glue/cb": ["accuracy", "macro_f1"],
    "super_glue/copa": ["accuracy"],
    "super_glue/rte": ["accuracy"],
    "super_glue/wic": ["accuracy"],
    "super_glue/wsc": ["accuracy"],
    "super_glue/multirc": ["f1a", "exact_match"],
    "super_glue/record": ["f1", "exact_match"],
}


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


def held() -> list[str]:
    """The presets whose files a mirror of SURGEON_MIRROR_DIR has, or the tests' own has."""
    given = os.environ.get("SURGEON_MIRROR_DIR", "")
    roots = [Path(part) for part in given.split(os.pathsep) if part]
    return [
        task.name
        for task in TASKS.values()
        if task.train_on is None and (task.name in INVENTED or any(map(partial(_has, task), roots)))
    ]


def _has(task: Task, root: Path) -> bool:
    folder = root / "datasets" / task.hub / task.config
    return all(any(folder.glob(f"{split}.*")) for split in (task.train, task.validation))


@pytest.mark.slow
@pytest.mark.parametrize("name", held())
def test_every_preset_of_the_mirror_ranks_and_trains(real_service: Running, name: str) -> None:
    """On the real encoder: its whole splits are read, and all of validation is measured."""
    ranking = real_service.run("rankings", {**REAL_RANKING, "dataset": name}, SECONDS)
    layers = ranking["result"]["layers"]
    assert [layer["rank"] for layer in layers] == [1, 2, 3, 4, 5, 6]
    assert all(layer["score"] > 0 for layer in layers)
    selection = {"policy": "top_k", "k": 1, "ranking": ranking["id"]}
    body = {**REAL_TUNING, "dataset": name, "selection": selection}
    result = real_service.run("finetunes", body, SECONDS)["result"]
    assert result["trained_layers"] == [layers[0]["name"]]
    assert result["primary_metric"] == OFFICIAL[name][0]
    [entry] = result["epochs"]
    assert list(entry["metrics"]) == OFFICIAL[name]
    for metric, value in entry["metrics"].items():
        # None is for what has no value, such as a correlation with a constant. Here all have one.
        low = -1 if metric in CORRELATIONS else 0
        assert value is not None
        high = 5 if metric in {"rmse", "mae"} else 1  # in the unit of the labels
        assert low <= value <= high, metric
