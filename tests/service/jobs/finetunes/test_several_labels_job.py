"""Rows with several labels over HTTP: upload, ranking, fine-tune, checkpoint, pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from surgeon.client import ApiError
from surgery.data.presets.tasks import LABEL_SET_METRICS
from surgery.evaluation.metrics import measure_label_sets
from surgery.schemas.enums import METHODS, Method
from tests.support.models.mirror import REAL_MODEL
from tests.support.rows.topics import TOPICS, topic_rows
from tests.support.service.problems import Json
from tests.support.service.services import Running

TRAINING = {"epochs": 2, "max_length": 24, "batch_size": 16, "learning_rate": 1e-3}
RANKING = {
    "model": REAL_MODEL, "samples": 32, "max_length": 24, "head": {"warmup_samples": 64},
    "fisher": "exact", "method": "all", "bootstrap": 50,
}  # fmt: skip


def csv(rows: list[dict[str, Any]]) -> str:
    return "text,tags\n" + "".join(f"{row['text']},{';'.join(row['labels'])}\n" for row in rows)


@pytest.fixture(scope="module")
def uploaded(
    embedded_service: Running, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Json, list[dict[str, Any]]]:
    """The stored dataset, and its validation rows."""
    folder, rows = tmp_path_factory.mktemp("tags"), topic_rows(48, 1)
    train, validation = folder / "train.csv", folder / "validation.csv"
    train.write_text(csv(topic_rows(160, 0)))
    validation.write_text(csv(rows))
    spec = {"columns": {"text": "text", "label": "tags"}, "label_separator": ";"}
    stored = embedded_service.client.upload(train, validation, spec=spec)
    return stored.model_dump(mode="json"), rows


@pytest.fixture(scope="module")
def tuned(embedded_service: Running, uploaded: tuple[Json, Any]) -> tuple[Json, Json]:
    """A finished ranking, and a fine-tune of its two best layers."""
    dataset = uploaded[0]["id"]
    ranking = embedded_service.run("rankings", {**RANKING, "dataset": dataset})
    body = {
        "model": REAL_MODEL, "dataset": dataset, "training": TRAINING,
        "selection": {"policy": "top_k", "k": 2, "ranking": ranking["id"]},
    }  # fmt: skip
    return ranking, embedded_service.run("finetunes", body)


def test_the_upload_and_its_preview_show_the_labels(
    embedded_service: Running, uploaded: tuple[Json, Any]
) -> None:
    report = uploaded[0]
    assert (report["problem"], report["labels"]) == ("multi_label", TOPICS)
    assert report["label_sets"]["separator"] == ";"
    assert report["label_sets"]["unlabelled"]["train"] > 0
    assert len(report["label_sets"]["pairs"]) == 6
    path = f"/v1/datasets/{report['id']}/preview"
    shown = embedded_service.client.call("POST", path, params={"model": REAL_MODEL, "limit": 4})
    names = [row["labels"] for row in topic_rows(4, 0)]
    assert [row["label_names"] for row in shown["rows"]] == names
    assert {row["label"] for row in shown["rows"]} == {None}


@pytest.mark.slow
def test_every_method_scores_and_the_best_layers_learn(tuned: tuple[Json, Json]) -> None:
    ranking, job = tuned
    scored = {entry["method"] for entry in ranking["result"]["methods"]["methods"]}
    assert scored == {str(each) for each in METHODS} - {Method.ALL, Method.PAPER_COMPAT}
    assert ranking["result"]["fisher"] == "exact"
    assert ranking["result"]["model_prior"]["kendall_tau"] is not None
    result = job["result"]
    assert result["primary_metric"] == "micro_f1"
    assert list(result["best"]["metrics"]) == list(LABEL_SET_METRICS)
    assert list(result["best"]["thresholds"]) == TOPICS
    assert result["best"]["metrics"]["micro_f1"] > 0.9
    assert result["epochs"][-1]["step"] == 2 * -(-144 // 16), "a tenth of 160 rows is set aside"


@pytest.mark.slow
def test_a_pipeline_on_the_download_gives_the_measured_metrics(
    embedded_service: Running, uploaded: tuple[Json, Any], tuned: tuple[Json, Json], tmp_path: Path
) -> None:
    rows, best = uploaded[1], tuned[1]["result"]["best"]
    checkpoint = tuned[1]["result"]["best_checkpoint"]
    folder = embedded_service.client.download(checkpoint, tmp_path / "full", "full")
    tagger = transformers.pipeline("text-classification", str(folder), top_k=None, device="cpu")
    limits = tagger.model.config.label_thresholds
    assert limits == best["thresholds"]
    said = [
        {each["label"]: each["score"] for each in labels}
        for labels in tagger([row["text"] for row in rows], function_to_apply="none")
    ]
    logits = np.array([[row[name] for name in TOPICS] for row in said], dtype=np.float64)
    marks = np.array([[name in row["labels"] for name in TOPICS] for row in rows], dtype=np.int8)
    found = measure_label_sets(
        logits, marks, np.array([limits[name] for name in TOPICS]),
        LABEL_SET_METRICS,
    )  # fmt: skip
    assert found == pytest.approx(best["metrics"], abs=1e-9)


@pytest.mark.slow
def test_a_comparison_and_an_estimate(
    embedded_service: Running, uploaded: tuple[Json, Any]
) -> None:
    common = {"model": REAL_MODEL, "dataset": uploaded[0]["id"]}
    training = {**TRAINING, "epochs": 1}
    arms = [{"name": name, "selection": {"policy": name}} for name in ("all", "head_only")]
    job = embedded_service.run(
        "comparisons", {**common, "arms": arms, "seeds": [0], "training": training}
    )
    assert job["result"]["primary_metric"] == "micro_f1"
    assert job["result"]["noise"] > 0
    body = {**common, "training": training, "k": [1]}
    estimate = embedded_service.client.call("POST", "/v1/estimates", json=body)
    assert estimate["rows"][0]["steps"] == 9


@pytest.mark.parametrize(
    ("collection", "body", "words"),
    [
        ("rankings", {"method": "paper_compat"}, "paper_compat"),
        ("finetunes", {"also_evaluate": ["glue/cola"]}, "the dataset of multi_label"),
        ("finetunes", {"training": {"metric": "accuracy"}}, "micro_f1, macro_f1"),
        ("finetunes", {"training": {"class_weights": [1.0, 2.0]}}, "the dataset has 4 classes"),
        ("finetunes", {"dataset": "glue/cola", "training": {"threshold_share": 0.2}}, "thresholds"),
        ("finetunes", {"training": {"threshold_share": 0.7}}, "0.5"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_queued(
    collection: str, body: Json, words: str, embedded_service: Running,
    uploaded: tuple[Json, Any],
) -> None:  # fmt: skip
    whole = {"model": REAL_MODEL, "dataset": uploaded[0]["id"], **body}
    if collection == "finetunes":
        whole["selection"] = {"policy": "all"}
    with pytest.raises(ApiError) as refused:
        embedded_service.client.call("POST", f"/v1/{collection}", json=whole)
    assert refused.value.problem["status"] == 422
    assert words in str(refused.value)
