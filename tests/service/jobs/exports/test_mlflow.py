"""Checkpoints registered at MLflow by a running service, loaded and asked as anybody would."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pandas as pd
import pytest

from surgery.schemas.enums import Problem
from surgery.training.tracking.services import TAG, run_of
from tests.support.models.mirror import REAL_MODEL
from tests.support.rows.labelled import LABELLED, Row
from tests.support.service.problems import problem, says
from tests.support.service.services import Running, embedded_with
from tests.support.service.stored import place_in
from worker.protocol import Exported, Published, PublishOrder
from worker.publisher import mlflow_models
from worker.publisher.mlflow_models import to_mlflow

with warnings.catch_warnings():  # of MLflow, about its own types
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    from mlflow import MlflowClient

pytestmark = pytest.mark.filterwarnings("default")  # those of MLflow's own code are not ours
Json = dict[str, Any]
EXPERIMENT = "exports"
TRAINING: Json = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "max_length": 16}


@dataclass(frozen=True)
class Place:
    """A service whose workers know an MLflow: the server that TEST_MLFLOW_URI names, which must be
    empty, else a database of SQLite."""

    running: Running
    tracking: str

    @property
    def mlflow(self) -> MlflowClient:
        return MlflowClient(self.tracking, self.tracking)

    def export(self, checkpoint: str, target: str, **options: Any) -> Json:
        body = {"to": "mlflow", "target": target, **options}
        return self.running.run(f"checkpoints/{checkpoint}/exports", body, seconds=240)


@pytest.fixture(scope="module")
def place(few_mirrors: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mlflow")
    server = os.environ.get("TEST_MLFLOW_URI")
    tracking = server or f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking, tracking)
    artifacts = None if server else (folder / "artifacts").as_uri()
    client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    told = {"MLFLOW_TRACKING_URI": tracking, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT}
    with embedded_with(folder / "data", few_mirrors, told) as running:
        yield Place(running, tracking)


@pytest.fixture
def known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same MLflow, for this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)


def tuned(place: Place, folder: Path, kind: Problem, **more: Any) -> tuple[Json, list[Row]]:
    """A fine-tune, and rows that it has not seen."""
    table = LABELLED[kind]
    paths = folder / "train.jsonl", folder / "validation.jsonl"
    unseen = table.rows(40, 1)
    for path, rows in zip(paths, (table.rows(64, 0), unseen), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = place.running.client.upload(*paths, spec=table.spec).id
    body = {
        "model": REAL_MODEL, "dataset": dataset, "training": TRAINING,
        "selection": {"policy": "layers", "layers": [5]}, **more,
    }  # fmt: skip
    return place.running.run("finetunes", body), unseen


@pytest.fixture(scope="module")
def reviews(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Json, list[Row]]:
    folder = tmp_path_factory.mktemp("reviews")
    labels = {"name": "reviews", "metadata": {"team": "search", "tier": "bronze"}}
    return tuned(place, folder, Problem.CLASSIFICATION, **labels)


def answers_of(entry: Json, labels: list[str]) -> Json:
    """An entry of a prediction's result as the registered model answers it."""
    if "words" in entry:
        return {"labels": [word["label"] for word in entry["words"]]}
    if "value" in entry:
        return {"value": entry["value"]}
    known = {each["label"]: each["probability"] for each in entry["probabilities"]}
    whole = {"probabilities": [known[name] for name in labels]}
    if "labels" in entry:
        return {"labels": entry["labels"], **whole}
    return {"label": entry["label"], **whole}


@pytest.mark.usefixtures("known")
@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELLED)
def test_the_registered_model_predicts_as_the_worker(
    place: Place, kind: Problem, tmp_path: Path
) -> None:
    job, rows = tuned(place, tmp_path, kind)
    checkpoint = job["result"]["best_checkpoint"]
    result = place.export(checkpoint, f"of-{kind.value}")["result"]
    assert result["location"] == f"models:/of-{kind.value}/1"
    asked = {"checkpoint": checkpoint, "rows": rows, "top": 100}
    told = place.running.run("predictions", asked)["result"]
    model = mlflow.pyfunc.load_model(result["location"])
    read = list(LABELLED[kind].read)
    assert model.metadata.signature.inputs.input_names() == read
    found = model.predict(pd.DataFrame([{name: row[name] for name in read} for row in rows]))
    assert list(found.columns) == model.metadata.signature.outputs.input_names()
    for own, entry in zip(found.to_dict("records"), told["predictions"], strict=True):
        for name, value in answers_of(entry, told["labels"]).items():
            exact = name in {"label", "labels"}
            assert own[name] == (value if exact else pytest.approx(value, abs=1e-4)), name


@pytest.mark.slow
def test_a_version_belongs_to_the_run_and_is_made_once(
    place: Place, reviews: tuple[Json, list[Row]]
) -> None:
    job, _ = reviews
    checkpoint, client = job["result"]["best_checkpoint"], place.mlflow
    own = {"metadata": {"tier": "gold", "mlflow.user": "nobody"}}
    first = place.export(checkpoint, "reviews", **own)
    again = place.export(checkpoint, "reviews")
    assert (first["result"]["created"], again["result"]["created"]) == (True, False)
    assert again["result"]["location"] == first["result"]["location"] == "models:/reviews/1"
    assert first["result"]["version"] == "1"
    [version] = client.search_model_versions("name = 'reviews'")
    assert version.run_id is not None
    assert client.get_run(version.run_id).data.tags[TAG] == job["id"]
    assert client.get_run(version.run_id).data.metrics, "the run that the tracker has logged"
    tags = version.tags
    assert (tags["team"], tags["tier"]) == ("search", "gold")
    assert tags["layer_surgeon.name"] == "reviews"
    assert tags["layer_surgeon.digest"] == first["result"]["digest"]
    assert tags["layer_surgeon.checkpoint"] == checkpoint
    assert "mlflow.user" not in tags
    place.running.client.delete(again["id"])
    assert client.get_model_version("reviews", "1").status == "READY"


def test_an_export_that_breaks_off_registers_nothing(
    place: Place, reviews: tuple[Json, list[Row]]
) -> None:
    job, _ = reviews
    client = place.running.client
    body = {"to": "mlflow", "target": "broken-off"}
    path = f"checkpoints/{job['result']['best_checkpoint']}/exports"
    export = client.submit(path, body)
    for event in client.follow(export["id"]):
        if place.running.client.job(export["id"])["phase"] == "publish" or event.type == "done":
            break
    client.cancel(export["id"])
    ended = place.running.finished(export)
    if ended["status"] == "cancelled":
        assert place.mlflow.search_model_versions("name = 'broken-off'") == []
    again = place.running.run(path, body, seconds=240)
    assert again["result"]["location"] == "models:/broken-off/1"


@pytest.mark.usefixtures("known")
def test_equal_exports_at_once_make_one_version(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_have_looked = Barrier(2)

    def save(folder: Path, target: Path) -> None:
        target.mkdir()
        (target / "MLmodel").write_text("flavors: {}")
        both_have_looked.wait(60)

    monkeypatch.setattr(mlflow_models, "save_model", save)

    def published(number: int) -> Published:
        scratch = tmp_path / str(number)
        scratch.mkdir()
        about = Exported(export=f"ex_{number}", job="ft_equal", name=None, metadata={})
        spec = {"target": "equal", "checkpoint": "ck_equal"}
        return to_mlflow(
            PublishOrder(spec=spec, scratch=scratch, folder=tmp_path, digest="d", about=about)
        )

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(published, range(2)))
    assert sorted(each.created for each in told) == [False, True]
    assert {each.location for each in told} == {"models:/equal/1"}
    assert len(place.mlflow.search_model_versions("name = 'equal'")) == 1


@pytest.mark.usefixtures("known")
def test_jobs_that_begin_at_once_share_an_experiment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = place.mlflow
    known = client.get_experiment_by_name(EXPERIMENT)
    looks = iter([None, known])  # another job makes it between the two
    monkeypatch.setattr(client, "get_experiment_by_name", lambda _: next(looks))
    assert run_of(client, "ft_new") == (known.experiment_id, None)


def test_what_mlflow_cannot_take_is_refused_at_once(tmp_path: Path) -> None:
    with place_in(tmp_path) as offered:
        path = f"{offered.path}/exports"
        body = {"to": "mlflow", "target": "reader"}
        refused = problem(offered.api.post(path, json=body), 422, "not_runnable")
        says(refused, "/to", "MLFLOW_TRACKING_URI")
        for wrong in ({"form": "delta"}, {"target": "a:b"}, {"target": "a/b"}):
            answer = problem(offered.api.post(path, json={**body, **wrong}), 422, "invalid")
            says(answer, f"/{next(iter(wrong))}")
