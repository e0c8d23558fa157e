"""What a refused request is told to send instead."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from surgery.errors import misspelt
from tests.support.models.mirror import REAL_MODEL, TINY
from tests.support.service.problems import Json, problem, says

GOOD: Json = {"model": TINY, "dataset": "glue/rte"}
ALL: Json = {"selection": {"policy": "all"}}


@pytest.mark.parametrize(
    ("model", "suggestion"),
    [
        ("all-MiniLM-L6-v2", REAL_MODEL), ("ALL-minilm-l6-V2", REAL_MODEL),
        ("sentence-transformer/all-MiniLM-L6-v2", REAL_MODEL),
        ("sentence-transformers/all-MiniLM-L6-v3@main", REAL_MODEL), ("minilm", REAL_MODEL),
        ("tiny/brt", TINY), ("bert", TINY),
    ],
)  # fmt: skip
def test_models_at_hand_are_proposed(model: str, suggestion: str, api: TestClient) -> None:
    answer = api.post("/v1/rankings", json={**GOOD, "model": model})
    [fault] = problem(answer, 422, "model_not_found")["errors"]
    assert (fault["pointer"], fault["suggestion"]) == ("/model", suggestion)
    assert f"did you mean '{suggestion}'" in fault["detail"]


def test_a_model_like_none_is_told_which_there_are(api: TestClient) -> None:
    answer = api.post("/v1/rankings", json={**GOOD, "model": "some/thing"})
    [fault] = problem(answer, 422, "model_not_found")["errors"]
    assert "the mirror has 'broken/decoder', " in fault["detail"]
    assert "suggestion" not in fault
    assert "did you mean" in problem(api.get("/v1/models/MiniLM"), 404, "not_found")["detail"]


TOO_LONG: dict[str, tuple[Json, str]] = {
    "rankings": ({"max_length": 1000}, "/max_length"),
    "finetunes": ({**ALL, "training": {"max_length": 1000}}, "/training/max_length"),
    "searches": ({"training": {"max_length": 1000}}, "/training/max_length"),
    "estimates": ({"training": {"max_length": 1000}}, "/training/max_length"),
    "comparisons": (
        {"arms": [{"name": "a", **ALL}, {"name": "b", "selection": {"policy": "head_only"}}],
         "training": {"max_length": 1000}},
        "/training/max_length",
    ),
}  # fmt: skip


@pytest.mark.parametrize("collection", TOO_LONG)
def test_rows_longer_than_the_model_takes_are_refused(collection: str, api: TestClient) -> None:
    more, pointer = TOO_LONG[collection]
    for query in ("", "?validate_only=true"):
        if query and collection == "estimates":
            continue
        answer = api.post(f"/v1/{collection}{query}", json={**GOOD, **more})
        body = problem(answer, 422, "invalid")
        says(body, pointer, "max_length 1,000 is more than the 64 tokens", TINY)
        assert body["errors"][0]["suggestion"] == 64
    inline = {"policy": "top_k", "k": 1, "ranking": {"max_length": 65}}
    answer = api.post("/v1/finetunes", json={**GOOD, "selection": inline})
    says(problem(answer, 422, "invalid"), "/selection/ranking/max_length", "64 tokens")


def test_the_longest_rows_are_no_fault_and_neither_is_the_default(api: TestClient) -> None:
    for body in ({"max_length": 64}, {"max_length": 128}, {}):
        answer = api.post("/v1/rankings?validate_only=true", json={**GOOD, **body})
        assert answer.status_code == 200, answer.text
    real = {"model": REAL_MODEL, "dataset": "glue/rte", "max_length": 1000}
    says(problem(api.post("/v1/rankings", json=real), 422, "invalid"), "/max_length", "the 512 tok")


@pytest.mark.parametrize(
    ("body", "pointer", "meant"),
    [
        ({"epochs": 3}, "/epochs", "training.epochs"),
        ({"training": {"epoch": 3}}, "/training/epoch", "training.epochs"),
        ({"training": {"head": {"warmup_epoch": 1}}}, "/training/head/warmup_epoch",
         "training.head.warmup_epochs"),
        ({"learning_rte": 3e-5}, "/learning_rte", "training.learning_rate"),
        ({"selection": {"policy": "top_k", "k": 1, "aggregate": "mean"}}, "/selection/aggregate",
         "selection.ranking.aggregate"),
        ({"training": {"priorty": 3}}, "/training/priorty", "priority"),
        ({"training": {"batch": 8}}, "/training/batch", "training.batch_size"),
        ({"training": {"dropout_rate": 0.1}}, "/training/dropout_rate", "training.dropout"),
        ({"max_length": 64}, "/max_length", "training.max_length"),
        ({"seed": 3}, "/seed", "selection.seed' or 'training.seed"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_told_by_its_whole_path(
    body: Json, pointer: str, meant: str, api: TestClient
) -> None:
    answer = api.post("/v1/finetunes", json={**GOOD, **ALL, **body})
    says(problem(answer, 422, "invalid"), pointer, f"did you mean '{meant}'?")


@pytest.mark.parametrize(
    "field",
    ["epochs", "warmup_steps", "layers", "families", "confidence", "file", "training"],
)
def test_a_field_of_another_request_is_not_taken_for_one_that_is_merely_alike(
    field: str, api: TestClient
) -> None:
    answer = api.post("/v1/rankings", json={**GOOD, field: 3})
    [fault] = problem(answer, 422, "invalid")["errors"]
    assert fault == {"pointer": f"/{field}", "detail": "unknown field; leave it out"}
    inside = api.post("/v1/rankings", json={**GOOD, "head": {"warmup_epoch": 3}})
    says(problem(inside, 422, "invalid"), "/head/warmup_epoch", "'head.warmup_epochs'?")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("txet", "text"), ("Text", "text"), ("tex", "text"), ("textt", "text"), ("tekst", None),
        ("layers", None), ("batchsize", "batch_size"), ("batsh_sise", "batch_size"),
        ("bash_sisse", None), ("revision", None), ("", None),
    ],
)  # fmt: skip
def test_one_wrong_letter_is_a_misspelling_and_two_are_in_a_long_name(
    word: str, meant: str | None
) -> None:
    assert misspelt(word, ["labels", "text", "batch_size", "precision"]) == meant
