"""Predictions of checkpoints on a running service, beside what was measured and plain pipelines."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

from surgeon.cli import app
from surgeon.client import ApiError
from surgery.evaluation.metrics import measure, measure_label_sets
from surgery.schemas.enums import Problem
from tests.support.models.mirror import REAL_MODEL
from tests.support.rows.labelled import LABELLED, Row
from tests.support.service.problems import Json
from tests.support.service.services import Running

TRAINING: Json = {
    "epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "max_length": 16,
    "head": {"warmup_epochs": 0},
}  # fmt: skip
SECRET = "zebra crossing"  # words of rows that must not stay anywhere


@dataclass(frozen=True)
class Tuned:
    """A fine-tune that has ended, and the rows that it was measured on."""

    job: Json
    validation: list[Row]

    @property
    def checkpoint(self) -> str:
        return str(self.job["result"]["best_checkpoint"])


def tuned(running: Running, folder: Path, problem: Problem) -> Tuned:
    """Fine-tune the last layer of a small model on rows of a problem."""
    table = LABELLED[problem]
    paths = folder / "train.jsonl", folder / "validation.jsonl"
    validation = table.rows(30, 1)
    for path, rows in zip(paths, (table.rows(64, 0), validation), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = running.client.upload(*paths, spec=table.spec).id
    body = {
        "model": REAL_MODEL, "dataset": dataset, "training": TRAINING,
        "selection": {"policy": "layers", "layers": [5]},
    }  # fmt: skip
    return Tuned(running.run("finetunes", body), validation)


@pytest.fixture(scope="module", params=list(LABELLED))
def each(
    request: pytest.FixtureRequest, embedded_service: Running,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tuned:  # fmt: skip
    return tuned(embedded_service, tmp_path_factory.mktemp("rows"), request.param)


@pytest.fixture(scope="module")
def reviews(embedded_service: Running, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tuned(embedded_service, tmp_path_factory.mktemp("reviews"), Problem.CLASSIFICATION)


def scores_of(entry: Json, labels: Sequence[str]) -> list[float]:
    """The probabilities of a row in the order of the labels."""
    known = {each["label"]: each["probability"] for each in entry["probabilities"]}
    return [known[label] for label in labels]


def one_hot(places: Sequence[int], width: int) -> Any:
    return np.eye(width)[list(places)]


def measured(result: Json, rows: list[Row], names: Sequence[str]) -> dict[str, float | None]:
    """The metrics of predictions, computed from what is answered and from the rows' labels."""
    problem, entries, labels = Problem(result["problem"]), result["predictions"], result["labels"]
    if problem is Problem.MULTI_LABEL:
        scores = np.array([scores_of(entry, labels) for entry in entries])
        marks = np.array([[name in row["tags"] for name in labels] for row in rows], np.int8)
        said = np.array([[name in entry["labels"] for name in labels] for entry in entries])
        limits = np.array([result["thresholds"][name] for name in labels])
        assert (said == (scores >= limits)).all()
        inside = np.clip(scores, 1e-9, 1 - 1e-9)
        return measure_label_sets(np.log(inside / (1 - inside)), marks, limits, names)
    if problem is Problem.REGRESSION:
        values = np.array([[entry["value"]] for entry in entries])
        return measure(values, np.array([row["stars"] for row in rows]), problem, names)
    if problem is Problem.TOKEN_CLASSIFICATION:
        tags = [labels.index(word["label"]) for entry in entries for word in entry["words"]]
        right = [labels.index(tag) for row in rows for tag in row["tags"]]
        ends = np.cumsum([0, *(len(row["tags"]) for row in rows)])
        logits = one_hot(tags, len(labels))
        return measure(logits, np.array(right), problem, names, tags=tuple(labels), offsets=ends)
    column = "mood" if problem is Problem.CLASSIFICATION else "right"
    said = one_hot([labels.index(entry["label"]) for entry in entries], len(labels))
    right = [labels.index(str(row[column])) for row in rows]
    return measure(said, np.array(right), problem, names)


def test_predictions_have_the_measured_metrics(embedded_service: Running, each: Tuned) -> None:
    body = {"checkpoint": each.checkpoint, "rows": each.validation}
    job = embedded_service.run("predictions", body)
    result, best = job["result"], each.job["result"]["best"]
    assert len(result["predictions"]) == len(each.validation)
    assert result["truncated"] == 0
    assert len({json.dumps(entry) for entry in result["predictions"]}) > 1
    metrics = best["metrics"]
    assert measured(result, each.validation, list(metrics)) == pytest.approx(metrics, abs=1e-6)
    assert result["thresholds"] == best.get("thresholds")
    assert job["id"].startswith("pd_")
    assert job["resolved"]["checkpoint"]["checkpoint"] == each.checkpoint
    assert job["resolved"]["given_rows"] == len(each.validation)
    assert job["progress"]["percent"] == 100.0


def test_a_pipeline_on_the_download_says_the_same(
    embedded_service: Running, reviews: Tuned, tmp_path: Path
) -> None:
    rows = reviews.validation
    body = {"checkpoint": reviews.checkpoint, "rows": rows, "top": 2}
    answer = embedded_service.run("predictions", body)["result"]
    folder = embedded_service.client.download(reviews.checkpoint, tmp_path / "full", "full")
    classify = transformers.pipeline("text-classification", str(folder), top_k=None, device="cpu")
    pairs = [{"text": row["review"], "text_pair": row["headline"]} for row in rows]
    for entry, said in zip(answer["predictions"], classify(pairs), strict=True):
        assert entry["label"] == said[0]["label"]
        found = {each["label"]: each["probability"] for each in entry["probabilities"]}
        assert found == pytest.approx({each["label"]: each["score"] for each in said}, abs=1e-5)


def test_waiting_for_the_answer_makes_it_synchronous(
    embedded_service: Running, reviews: Tuned
) -> None:
    row = {"review": "a good film", "headline": "seen today"}
    body = {"checkpoint": reviews.checkpoint, "rows": [row], "top": 0}
    headers = {"Prefer": "wait=60", "Idempotency-Key": f"once-{reviews.checkpoint}"}
    call = embedded_service.client.call
    job = call("POST", "/v1/predictions", json=body, headers=headers)
    assert (job["status"], job["spec"]["checkpoint"]) == ("succeeded", reviews.checkpoint)
    [entry] = job["result"]["predictions"]
    assert entry["probabilities"] == []
    assert call("POST", "/v1/predictions", json=body, headers=headers)["id"] == job["id"]
    listed = call("GET", "/v1/predictions", params={"limit": 200})["data"]
    [own] = [each for each in listed if each["id"] == job["id"]]
    assert (own["status"], own["result"]) == ("succeeded", None)
    assert call("GET", f"/v1/predictions/{job['id']}")["result"] == job["result"]


def test_rows_are_in_no_log_and_go_with_the_job(embedded_service: Running, reviews: Tuned) -> None:
    client = embedded_service.client
    rows = [{"review": f"{SECRET} {n}", "headline": SECRET, "mood": SECRET} for n in range(3)]
    body = {"checkpoint": reviews.checkpoint, "rows": rows}
    headers = {"Idempotency-Key": f"secret-{reviews.checkpoint}"}
    job = client.call("POST", "/v1/predictions", json=body, headers=headers)
    job = embedded_service.finished(job)
    assert job["status"] == "succeeded"
    with pytest.raises(ApiError, match="row 1, column review"):
        client.submit("predictions", {**body, "rows": [{"headline": SECRET}]})
    assert SECRET not in json.dumps(job)
    events = client.call("GET", f"/v1/jobs/{job['id']}/events")
    log = client.call("GET", f"/v1/jobs/{job['id']}/logs")
    assert log["data"]
    assert SECRET not in json.dumps([events, log]) + embedded_service.logs()
    stored = held(embedded_service)
    assert stored.count(SECRET) == 6, "the columns that are read, of three rows"
    client.delete(job["id"])
    assert SECRET not in held(embedded_service)


def held(running: Running) -> str:
    """Everything in the database."""
    with sqlite3.connect(running.data / "surgeon.db") as connection:
        return "\n".join(connection.iterdump())


def test_a_cancelled_prediction_is_asked_again(embedded_service: Running, reviews: Tuned) -> None:
    client, rows = embedded_service.client, reviews.validation
    names = ("model", "dataset", "selection", "training")
    long = {name: reviews.job["spec"][name] for name in names}
    long["training"] = {**long["training"], "epochs": 1000, "max_length": 17}
    ahead = client.submit("finetunes", long)  # so that the only worker is busy
    first = client.submit("predictions", {"checkpoint": reviews.checkpoint, "rows": rows})
    client.cancel(first["id"])
    assert embedded_service.finished(first)["status"] == "cancelled"
    client.cancel(ahead["id"])
    again = embedded_service.finished(client.retry(first["id"]))
    assert len(again["result"]["predictions"]) == len(rows)


def test_a_dataset_may_go_before_its_checkpoint(embedded_service: Running, reviews: Tuned) -> None:
    client = embedded_service.client
    client.call("DELETE", f"/v1/datasets/{reviews.job['spec']['dataset']}")
    rows = reviews.validation[:2]
    job = embedded_service.run("predictions", {"checkpoint": reviews.checkpoint, "rows": rows})
    assert job["resolved"]["dataset"]["id"] == reviews.job["spec"]["dataset"]


def test_the_command_prints_a_table_or_json(
    embedded_service: Running, each: Tuned, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in each.validation[:3]) + "\n\n")
    url = ["--url", embedded_service.client.url]
    runner = CliRunner(env={"COLUMNS": "100"})
    shown = runner.invoke(app, ["predict", each.job["id"], "--file", str(path), *url])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert "prediction" in shown.stdout or "value" in shown.stdout
    given = ["predict", each.checkpoint, "--text", "a good film in rome", *url, "--json"]
    answer = runner.invoke(app, given)
    table = LABELLED[Problem(each.job["resolved"]["dataset"]["problem"])]
    if len(table.read) > 1:
        assert answer.exit_code == 2
        assert all(name in answer.stderr for name in table.read)
    else:
        assert answer.exit_code == 0, answer.output
        assert len(json.loads(answer.stdout)["result"]["predictions"]) == 1
