"""The main job over HTTP, embedded and in production, on the real encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from surgery.checkpoints.checkpoint import load
from surgery.data.presets.tasks import TASKS
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.dataset import open_data
from surgery.data.tokens.tokenize import encode
from surgery.evaluation.evaluate import predict
from surgery.evaluation.metrics import measure
from surgery.io.sources import Sources
from tests.support.models.mirror import REAL_MODEL
from tests.support.service.services import Running

RANKING = {
    "model": REAL_MODEL, "samples": 32, "max_length": 32, "head": {"warmup_samples": 32},
    "model_prior": False,
}  # fmt: skip
TRAINING = {"max_steps": 8, "max_length": 16, "batch_size": 16, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def scores() -> dict[tuple[str, str], list[tuple[str, float]]]:
    """What each deployment answered, by task."""
    return {}


# In production one task tells: what differs there is the way to the worker, not the work.
@pytest.mark.parametrize(
    ("where", "task"),
    [
        ("real", "glue/rte"),
        pytest.param("real", "glue/stsb", marks=pytest.mark.slow),
        ("production", "glue/rte"),
    ],
)
def test_rank_then_tune_the_top_two_layers(
    where: str, task: str, request: pytest.FixtureRequest,
    scores: dict[tuple[str, str], list[tuple[str, float]]],
) -> None:  # fmt: skip
    service: Running = request.getfixturevalue(f"{where}_service")
    ranking = service.run("rankings", {**RANKING, "dataset": task})
    layers = ranking["result"]["layers"]
    scores[where, task] = [(layer["name"], layer["score"]) for layer in layers]
    assert [layer["rank"] for layer in layers] == [1, 2, 3, 4, 5, 6]
    assert ranking["result"]["path"] == "batched"
    assert all(layer["ci"][0] <= layer["score"] <= layer["ci"][1] for layer in layers)
    assert [t["status"] for t in ranking["transitions"]] == ["queued", "running", "succeeded"]

    selection = {"policy": "top_k", "k": 2, "ranking": ranking["id"]}
    body = {"model": REAL_MODEL, "dataset": task, "selection": selection, "training": TRAINING}
    tuned = service.run("finetunes", body)
    result = tuned["result"]
    assert set(result["trained_layers"]) == {layer["name"] for layer in layers[:2]}
    assert result["frozen_verified"] is True
    assert result["ranking"] == ranking["id"]
    assert result["primary_metric"] == TASKS[task].metrics[0]
    assert set(result["best"]["metrics"]) == set(TASKS[task].metrics)
    (checkpoint,) = service.client.checkpoints(tuned["id"])
    assert checkpoint["id"] == result["best_checkpoint"]


def test_both_deployments_give_the_same_scores(
    scores: dict[tuple[str, str], list[tuple[str, float]]],
) -> None:
    assert scores["real", "glue/rte"] == scores["production", "glue/rte"]


def test_a_repeated_ranking_is_answered_from_the_stored_result(real_service: Running) -> None:
    body = {**RANKING, "dataset": "glue/rte"}
    first = real_service.run("rankings", body)
    again = real_service.client.submit("rankings", body)
    assert (again["cached"], again["status"]) == (True, "succeeded")
    assert (again["result_of"], again["result"]) == (
        first["result_of"] or first["id"],  # another test may have asked for it before
        first["result"],
    )
    bypass = real_service.run("rankings", {**body, "cache": "bypass"})
    assert bypass["id"] != first["id"]
    assert bypass["result"]["layers"] == first["result"]["layers"]


def test_a_tune_without_a_ranking_ranks_first_and_keeps_it(real_service: Running) -> None:
    options = {
        "samples": 32, "max_length": 32, "seed": 7, "head": {"warmup_samples": 32},
        "model_prior": False,
    }  # fmt: skip
    body = {
        "model": REAL_MODEL, "dataset": "glue/rte",
        "selection": {"policy": "top_k", "k": 1, "ranking": options},
        "training": {**TRAINING, "max_steps": 1},
    }  # fmt: skip
    tuned = real_service.run("finetunes", body)
    ranking = real_service.client.job(tuned["result"]["ranking"])
    assert (ranking["kind"], ranking["status"], ranking["parent"]) == (
        "ranking", "succeeded", tuned["id"],
    )  # fmt: skip
    assert tuned["result"]["trained_layers"] == [ranking["result"]["layers"][0]["name"]]
    same = real_service.client.submit(
        "rankings", {"model": REAL_MODEL, "dataset": "glue/rte", **options}
    )
    assert (same["result_of"], same["cached"]) == (ranking["id"], True)


@pytest.mark.parametrize("form", ["delta", pytest.param("full", marks=pytest.mark.slow)])
def test_the_downloaded_checkpoint_predicts_what_the_worker_measured(
    form: str, real_service: Running, mirrors: str, tmp_path: Path
) -> None:
    """Kept as a delta, downloaded as a delta and as a whole folder; kept whole."""
    body = {
        "model": REAL_MODEL, "dataset": "glue/rte", "training": TRAINING,
        "selection": {"policy": "last_k", "k": 2}, "checkpoints": {"form": form},
    }  # fmt: skip
    tuned = real_service.run("finetunes", body)
    best = tuned["result"]["best_checkpoint"]
    full = real_service.client.download(best, tmp_path / "full", "full")
    model = AutoModelForSequenceClassification.from_pretrained(full)
    tokenizer = AutoTokenizer.from_pretrained(full)

    sources = Sources(tuple(map(Path, mirrors.split(":"))), cache=tmp_path / "cache", offline=True)
    source = resolve_dataset("glue/rte", sources)
    folder, report = materialise(source, sources)
    data = open_data(folder, report, source.metrics)
    rows = encode(data.validation, tokenizer, TRAINING["max_length"])
    logits = predict(model, rows, torch.device("cpu"))
    found = measure(logits, rows.labels, data.problem, data.metrics)
    assert found == pytest.approx(tuned["result"]["best"]["metrics"], abs=1e-9)
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
    if form == "full":
        return
    delta = real_service.client.download(best, tmp_path / "delta")
    assert not (delta / "model.safetensors").exists()
    base = Path(mirrors.split(":", maxsplit=1)[0]) / "models" / REAL_MODEL
    with torch.no_grad():
        again = predict(load(base, delta), rows, torch.device("cpu"))
    assert (again == logits).all()


@pytest.mark.slow  # it looks at what both forms above have stored
def test_a_delta_of_two_layers_is_a_fifth_of_the_whole(real_service: Running) -> None:
    jobs = real_service.client.call("GET", "/v1/finetunes?status=succeeded&limit=200")["data"]
    sizes = {
        job["spec"]["checkpoints"]["form"]: real_service.client.checkpoints(job["id"])[0]["bytes"]
        for job in jobs
        if job["resolved"]["layers"] == ["encoder.layer.4", "encoder.layer.5"]
    }
    assert sizes["delta"] <= 0.2 * sizes["full"]
