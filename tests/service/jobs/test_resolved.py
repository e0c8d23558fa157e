"""What a job remembers of its request: the stored JSON, and how often a request looks things up."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.tables import Job
from app.jobs import state_machine
from app.main import create_app
from app.settings import Settings
from app.submissions import resolve
from surgery.models.source import folder
from surgery.models.source import resolve as sources
from surgery.schemas.resolved import Learned, ResolvedComparison, ResolvedFinetune, shown
from tests.support.models.mirror import TINY
from tests.support.rows.invented import write_tasks
from tests.support.rows.nli import put_nli
from tests.support.service.finished_runs import ranking_result
from tests.support.service.problems import ROWS, Json, upload
from tests.support.service.queued_jobs import take
from tests.support.service.services import Running

DIGEST = "sha256:…"
MODEL: Json = {
    "id": TINY, "revision": None, "fingerprint": DIGEST, "layers": 4, "parameters": 498608,
}  # fmt: skip
RTE: Json = {
    "id": "glue/rte", "revision": None, "fingerprint": DIGEST,
    "rows": {"train": 400, "validation": 80}, "problem": "classification",
    "metrics": ["accuracy"], "labels": ["entailment", "not_entailment"],
}  # fmt: skip
COMMON: Json = {"model": MODEL, "dataset": RTE, "digest": DIGEST}
LAST: Json = {"policy": "layers", "layers": [3]}
TOP: Json = {"policy": "top_k", "k": 1}


@pytest.fixture(scope="module")
def presets(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    own = tmp_path_factory.mktemp("own")
    write_tasks(own)
    put_nli(own)
    return os.pathsep.join((str(mirror), str(own)))


@pytest.fixture
def api(presets: str, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(Settings(data_dir=tmp_path, mirror_dir=presets, offline=True))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def plain(resolved: Json) -> Any:
    """Without what differs from run to run: digests and identifiers."""
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", json.dumps(resolved, ensure_ascii=False))
    return json.loads(re.sub(r"\b(rk|ds)_[0-9a-z]{26}", r"\1_…", text))


def stored(api: TestClient, job_id: str) -> Any:
    database: Any = api.app.state.service.database  # type: ignore[attr-defined]
    with database.read() as session:
        return plain(session.get_one(Job, job_id).resolved)


def submit(api: TestClient, kind: str, **body: Any) -> Json:
    answer = api.post(f"/v1/{kind}", json={"model": TINY, "dataset": "glue/rte", **body})
    assert answer.status_code == 202, answer.text
    job: Json = answer.json()
    return job


def check(api: TestClient, job: Json, expected: Json) -> None:
    """It is stored like this, and answered without the path of an upload."""
    assert stored(api, job["id"]) == expected
    dataset = {name: value for name, value in expected["dataset"].items() if name != "path"}
    assert plain(job["resolved"]) == {**expected, "dataset": dataset}


def test_a_ranking_stores_its_model_its_data_and_its_digest(api: TestClient) -> None:
    check(api, submit(api, "rankings"), COMMON)


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        pytest.param(
            ("0", "1"),
            {
                "problem": "classification", "metrics": ["accuracy", "f1", "macro_f1"],
                "classes": 2, "labels": ["0", "1"],
            },
            id="classes",
        ),
        pytest.param(
            ("0.5", "1.5"),
            {
                "problem": "regression", "metrics": ["pearson", "spearman", "rmse", "mae"],
                "classes": 0, "labels": [],
            },
            id="numbers",
        ),
    ],
)  # fmt: skip
def test_an_upload_is_stored_with_its_classes_and_its_path(
    api: TestClient, labels: tuple[str, str], known: Json
) -> None:
    rows = ROWS.replace(",0\n", f",{labels[0]}\n").replace(",1\n", f",{labels[1]}\n")
    job = submit(api, "rankings", dataset=upload(api, rows).json()["id"])
    dataset = {
        "id": "ds_…", "revision": None, "fingerprint": DIGEST,
        "rows": {"train": 9, "validation": 1}, "path": "datasets/ds_…", **known,
    }  # fmt: skip
    check(api, job, {**COMMON, "dataset": dataset})


def test_a_fine_tune_stores_what_trains_and_the_further_presets(api: TestClient) -> None:
    job = submit(api, "finetunes", dataset="glue/mnli", selection=LAST, also_evaluate=["glue/ax"])
    dataset = {
        "id": "glue/mnli", "revision": None, "fingerprint": DIGEST,
        "rows": {"train": 48, "validation": 24}, "problem": "classification",
        "metrics": ["accuracy"], "labels": ["entailment", "neutral", "contradiction"],
    }  # fmt: skip
    also = {"id": "glue/ax", "revision": None, "fingerprint": DIGEST}
    expected = {
        **COMMON, "dataset": dataset, "granularity": "layer", "layers": ["encoder.layer.3"],
        "selected_parameters": 2224, "also_evaluate": [also],
    }  # fmt: skip
    check(api, job, expected)


def test_a_fine_tune_by_a_ranking_stores_its_scores_once_it_is_there(api: TestClient) -> None:
    waiting = submit(api, "finetunes", selection=TOP)
    check(api, waiting, {**COMMON, "granularity": "layer"})
    api.post(f"/v1/jobs/{waiting['id']}/cancel")
    ranking = submit(api, "rankings")["id"]
    scores = {f"encoder.layer.{place}": place + 1.0 for place in range(4)}
    result = ranking_result({"fisher": scores}).model_dump(mode="json")
    database: Any = api.app.state.service.database  # type: ignore[attr-defined]
    versions = {"versions": {"surgery": "1"}}
    state_machine.finish(database, take(database), result, Learned.of(versions))
    assert stored(api, ranking) == COMMON | versions
    job = submit(api, "finetunes", selection={**TOP, "ranking": ranking, "include": ["pooler"]})
    expected = {
        **COMMON, "ranking": "rk_…", "granularity": "layer", "layers": ["encoder.layer.3"],
        "selected_parameters": 2496, "scores": scores,
    }  # fmt: skip
    check(api, job, expected)


def test_a_comparison_stores_its_arms_and_its_children_their_own(api: TestClient) -> None:
    arms = [{"name": "top", "selection": TOP}, {"name": "lora", "adapter": {"type": "lora"}}]
    job = submit(api, "comparisons", arms=arms, seeds=[0], single_layers=True)
    rate = {"learning_rate": 5e-05, "learning_rates": None, "digest": DIGEST, "same_as": None}
    plans = [
        {
            "name": "top", "policy": "top_k", "adapter": None, "layers": None, "single": False,
            "digest": None,  # not known before the ranking
        },
        {
            "name": "lora", "policy": "head_only", "adapter": "lora", "layers": [], "single": False,
            "learning_rate": 5e-04,
        },
        *(
            {
                "name": f"layer-{place}", "policy": "layers", "adapter": None,
                "layers": [f"encoder.layer.{place}"], "single": True,
            }
            for place in range(4)
        ),
    ]  # fmt: skip
    expected = {"arms": [rate | plan for plan in plans], "ranking": "rk_…", "runs": 6}
    check(api, job, COMMON | expected)
    found = api.get(f"{job['links']['children']}&limit=200").json()["data"]
    children = {child["name"]: child for child in found}
    whole = {**COMMON, "granularity": "layer"}
    check(api, children["ranking by fisher"], COMMON)
    check(api, children["ranking by all"], COMMON)
    check(api, children["top, seed 0"], {**whole, "arm": "top"})
    none = {"layers": [], "selected_parameters": 0, "arm": "lora"}
    check(api, children["lora, seed 0"], whole | none)
    one = {"layers": ["encoder.layer.2"], "selected_parameters": 2224, "arm": "layer-2"}
    check(api, children["layer-2, seed 0"], whole | one)


def test_a_worker_adds_the_ranking_the_choice_and_what_it_ran_on(embedded_service: Running) -> None:
    body = {"model": TINY, "dataset": "glue/rte", "selection": TOP}
    training = {"training": {"epochs": 1, "max_length": 16}}
    resolved = embedded_service.run("finetunes", body | training)["resolved"]
    ranking = embedded_service.client.call("GET", f"/v1/jobs/{resolved['ranking']}")
    assert plain(ranking["resolved"]) == COMMON
    scores, versions, device = (resolved.pop(name) for name in ("scores", "versions", "device"))
    assert sorted(scores) == [f"encoder.layer.{place}" for place in range(4)]
    assert sorted(versions) == ["surgery", "torch", "transformers"]
    assert sorted(device) == ["memory_bytes", "name"]
    assert plain(resolved) == {
        **COMMON, "ranking": "rk_…", "granularity": "layer", "layers": [max(scores, key=scores.get)],
        "selected_parameters": 2224, "trainable_parameters": 2258,
        "rows": RTE["rows"], "labels": RTE["labels"],
    }  # fmt: skip


def test_what_the_first_versions_stored_is_still_read() -> None:
    named = {"id": "m", "revision": None, "fingerprint": "sha256:1"}
    dataset = {**named, "rows": {"train": 9}, "problem": "regression", "path": "datasets/ds_1"}
    old = {"model": named, "dataset": dataset, "digest": "x"}
    chosen = ResolvedFinetune.of({**old, "layers": ["encoder.layer.0"]})
    assert (chosen.model.parameters, chosen.granularity, chosen.scores) == (None, None, None)
    arms = [{"name": "a", "policy": "all", "adapter": None, "layers": ["l0"], "single": False}]
    comparison = ResolvedComparison.of({**old, "arms": arms, "ranking": None, "runs": 1})
    assert comparison.arms[0].learning_rate is None
    assert shown({**old, "of another version": 1}) == {
        "model": named, "digest": "x", "of another version": 1,
        "dataset": {name: value for name, value in dataset.items() if name != "path"},
    }  # fmt: skip


ARMS: Json = {"arms": [{"name": "a", "selection": LAST}, {"name": "top", "selection": TOP}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("rankings", {}),
        ("finetunes", {"selection": LAST}),
        ("finetunes?validate_only=true", {"selection": LAST}),
        ("finetunes?validate_only=true", {"selection": LAST, "also_evaluate": ["glue/ax"]}),
        ("comparisons", {**ARMS, "single_layers": True, "also_evaluate": ["glue/ax"]}),
        ("estimates", {"selection": TOP}),
    ],
)
def test_a_request_looks_its_model_and_its_data_up_once(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, body: Json
) -> None:
    """A dry run's estimate and a comparison's children take what the request found already."""
    calls: Counter[str] = Counter()

    def counting(module: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(module, name)

        def counted(*given: Any, **more: Any) -> Any:
            calls[name] += 1
            return original(*given, **more)

        monkeypatch.setattr(module, name, counted)

    monkeypatch.setattr(sources, "_FOLDERS", {})  # as if no request had read the model before
    counting(resolve, "resolve_model")
    counting(resolve, "resolve_dataset")
    counting(folder, "read_open_header")
    answer = api.post(f"/v1/{path}", json={"model": TINY, "dataset": "glue/mnli", **body})
    assert answer.status_code in {200, 202}, answer.text
    assert calls == {"resolve_model": 1, "resolve_dataset": 1, "read_open_header": 1}
