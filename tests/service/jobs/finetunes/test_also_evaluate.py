"""Fine-tunes that are measured on other presets too, over HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from surgeon.cli import app
from tests.support.models.mirror import TINY
from tests.support.rows.nli import nli_rows, put_nli
from tests.support.rows.presets import put_split
from tests.support.service.services import Running


@pytest.fixture(scope="module")
def mirrors(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    own = tmp_path_factory.mktemp("nli")
    put_nli(own)
    return os.pathsep.join((str(mirror), str(own)))


def body(dataset: str, *also: str, **more: Any) -> dict[str, Any]:
    return {
        "model": TINY, "dataset": dataset, "selection": {"policy": "last_k", "k": 1},
        "training": {"epochs": 2, "max_length": 48, "batch_size": 16}, "also_evaluate": list(also),
        **more,
    }  # fmt: skip


@pytest.mark.slow
def test_one_fine_tune_is_measured_on_both_sets_of_mnli_and_the_diagnostics(
    own_service: Running,
) -> None:
    names = ["glue/mnli_mismatched", "glue/ax", "super_glue/cb"]
    job = own_service.run("finetunes", body("glue/mnli", *names))
    assert [pinned["id"] for pinned in job["resolved"]["also_evaluate"]] == names
    evaluations = job["result"]["epochs"]
    assert len(evaluations) == 2
    for entry in evaluations:
        assert {name: list(values) for name, values in entry["also"].items()} == {
            "glue/mnli_mismatched": ["accuracy"], "glue/ax": ["matthews_correlation"],
            "super_glue/cb": ["accuracy", "macro_f1"],
        }  # fmt: skip
    assert set(job["result"]["best"]["metrics"]) == {"accuracy"}
    name = "glue/ax:matthews_correlation"
    page = own_service.client.call("GET", f"/v1/jobs/{job['id']}/metrics", params={"name": name})
    assert [(point["step"], point["value"]) for point in page["data"]] == [
        (entry["step"], entry["also"]["glue/ax"]["matthews_correlation"]) for entry in evaluations
    ]


@pytest.mark.slow
def test_an_upload_with_the_labels_by_name_is_measured_on_winogender(
    own_service: Running, tmp_path: Path
) -> None:
    """An upload's labels are in the order of the alphabet, and WNLI's the other way round."""
    path = tmp_path / "own.jsonl"
    labels = ["entailment", "not_entailment"]
    rows = [
        {"text": row["premise"], "text_pair": row["hypothesis"], "label": labels[row["label"]]}
        for row in nli_rows("super_glue/rte", 40, seed=9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    uploaded = own_service.client.upload(path)
    assert uploaded.labels == labels
    job = own_service.run("finetunes", body(uploaded.id, "super_glue/axg", "glue/wnli"))
    also = job["result"]["best"]["also"]
    assert set(also["super_glue/axg"]) == {"accuracy", "gender_parity"}
    assert also["super_glue/axg"]["gender_parity"] * 12 == pytest.approx(
        round(also["super_glue/axg"]["gender_parity"] * 12)
    ), "there are twelve pairs"
    assert set(also["glue/wnli"]) == {"accuracy"}


def test_the_command_line_names_and_shows_them(own_service: Running) -> None:
    command = [
        "tune",
        TINY,
        "super_glue/rte",
        "--last-k",
        "1",
        "--epochs",
        "1",
        "--max-length",
        "48",
    ]
    command += ["--also-evaluate", "super_glue/axg", "--also-evaluate", "glue/wnli"]
    command += ["--url", own_service.client.url]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    assert "on super_glue/axg: accuracy 0." in told
    assert "on glue/wnli: accuracy 0." in told


@pytest.mark.parametrize(
    ("dataset", "also", "place", "code", "words"),
    [
        ("glue/mnli", ["glue/ax", "super_glue/axb"], 1, "dataset_invalid", "the labels of"),
        ("glue/mnli", ["glue/axx"], 0, "dataset_not_found", "did you mean 'glue/ax'?"),
        ("glue/mnli", ["glue/sst2"], 0, "dataset_not_found", "glue/sst2 is not in the mirror"),
        ("glue/mnli", ["glue/mnli"], 0, "dataset_invalid", "the dataset itself"),
        (
            {"hub": "nyu-mll/glue", "config": "mnli", "validation": "validation_matched",
             "columns": {"text": "premise", "text_pair": "hypothesis", "label": "label"}},
            ["glue/ax"], 0, "dataset_invalid", "give dataset.labels",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_submit(
    api: TestClient, dataset: Any, also: list[str], place: int, code: str, words: str
) -> None:
    answer = api.post("/v1/finetunes", json=body(dataset, *also))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    [fault] = answer.json()["errors"]
    assert fault["pointer"] == f"/also_evaluate/{place}"
    assert words in fault["detail"]
    assert api.get("/v1/jobs").json()["data"] == []


def test_at_most_eight_are_taken(api: TestClient) -> None:
    answer = api.post("/v1/finetunes", json=body("glue/mnli", *["glue/ax"] * 9))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/also_evaluate"


def test_a_dry_run_tells_what_would_be_measured(api: TestClient) -> None:
    answer = api.post("/v1/finetunes?validate_only=true", json=body("glue/mnli", "glue/ax"))
    [pinned] = answer.json()["resolved"]["also_evaluate"]
    assert pinned["id"] == "glue/ax"
    assert pinned["fingerprint"].startswith("sha256:")


def test_a_mirror_that_changed_meanwhile_fails_the_job(own_service: Running, mirrors: str) -> None:
    """Held back by a long job before it, so that the files change between submit and start."""
    longer = body("glue/mnli", training={"epochs": 300, "max_length": 48})
    first = own_service.client.submit("finetunes", longer)
    job = own_service.client.submit("finetunes", body("super_glue/rte", "super_glue/axb"))
    own = Path(mirrors.split(os.pathsep)[1])
    put_split(own, "super_glue/axb", "test", nli_rows("super_glue/axb", 12, seed=77))
    own_service.client.call("POST", f"/v1/jobs/{first['id']}/cancel")
    failed = own_service.finished(job)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "dataset_invalid")
    assert "super_glue/axb changed since the job was submitted" in failed["error"]["detail"]
