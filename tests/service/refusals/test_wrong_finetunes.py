"""Wrong fine-tunes of each kind: a problem that names field and remedy; nothing is queued."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app.jobs import state_machine
from surgery.schemas.resolved import Learned
from tests.support.models.mirror import TINY
from tests.support.service.finished_runs import ranking_result
from tests.support.service.problems import Json, problem, says
from tests.support.service.queued_jobs import take

GOOD: Json = {"model": TINY, "dataset": "glue/rte"}
TUNE: Json = {**GOOD, "selection": {"policy": "last_k", "k": 1}}
FINETUNES: dict[str, tuple[Json, str, str, tuple[str, ...]]] = {
    "more than the model has": (
        {"selection": {"policy": "top_k", "k": 5}}, "selection_mismatch", "/selection/k", ("4",),
    ),
    "last more than there are": (
        {"selection": {"policy": "last_k", "k": 9}}, "selection_mismatch", "/selection/k", ("4",),
    ),
    "layer that does not exist": (
        {"selection": {"policy": "layers", "layers": ["encoder.layer.1", "encoder.layer.11"]}},
        "selection_mismatch", "/selection/layers/1", ("encoder.layer.1",),
    ),
    "index that does not exist": (
        {"selection": {"policy": "layers", "layers": [4]}},
        "selection_mismatch", "/selection/layers/0", ("4",),
    ),
    "share missing": ({"selection": {"policy": "top_share"}}, "invalid", "/selection/policy", ("needs share",)),
    "share above one": ({"selection": {"policy": "top_share", "share": 1.5}}, "invalid", "/selection/share", ("1",)),
    "share of a mere order": (
        {"selection": {"policy": "top_share", "share": 0.5, "ranking": {"method": "last"}}},
        "invalid", "/selection/policy", ("top_k",),
    ),
    "budget missing": (
        {"selection": {"policy": "max_parameters"}}, "invalid", "/selection/policy", ("max_parameters",),
    ),
    "budget that nothing fits": (
        {"selection": {"policy": "max_parameters", "max_parameters": 100}},
        "selection_empty", "/selection/max_parameters", ("at least 2,",),
    ),
    "budget that embeddings take": (
        {"selection": {"policy": "max_parameters", "max_parameters": 9000, "include": ["embeddings"]}},
        "selection_empty", "/selection/max_parameters", ("at least 49",),
    ),
    "more tensors than there are": (
        {"selection": {"policy": "last_k", "k": 65, "granularity": "tensor"}},
        "selection_mismatch", "/selection/k", ("at most 64",),
    ),
    "more of a ranking than there are": (
        {"selection": {"policy": "bottom_k", "k": 9, "granularity": "sublayer"}},
        "selection_mismatch", "/selection/k", ("at most 8",),
    ),
    "a part by index": (
        {"selection": {"policy": "layers", "layers": [0], "granularity": "sublayer"}},
        "selection_mismatch", "/selection/layers/0", ("names only",),
    ),
    "a layer among parts": (
        {"selection": {"policy": "layers", "layers": ["encoder.layer.1"], "granularity": "sublayer"}},
        "selection_mismatch", "/selection/layers/0", ("no sublayer",),
    ),
    "unknown granularity": (
        {"selection": {"policy": "top_k", "k": 1, "granularity": "head"}},
        "invalid", "/selection/granularity", ("tensor",),
    ),
    "granularity of the head": (
        {"selection": {"policy": "head_only", "granularity": "tensor"}},
        "invalid", "/selection/granularity", ("leave it out",),
    ),
    "granularity unlike the ranking's": (
        {
            "selection": {
                "policy": "top_k", "k": 1, "granularity": "tensor", "ranking": {"granularity": "layer"},
            }
        },
        "invalid", "/selection/granularity", ("differs from the ranking's",),
    ),
    "method of whole layers": (
        {
            "selection": {
                "policy": "top_k", "k": 1, "granularity": "tensor", "ranking": {"method": "tangent"},
            }
        },
        "invalid", "/selection/ranking/method", ("scores whole layers",),
    ),
    "a part the model lacks": (
        {"selection": {"policy": "all", "include": ["head"]}}, "invalid", "/selection/include/0", (),
    ),
    "no layer": ({"selection": {"policy": "layers", "layers": []}}, "invalid", "/selection/layers", ("head_only",)),
    "k missing": ({"selection": {"policy": "top_k"}}, "invalid", "/selection/policy", ("needs k",)),
    "k for all": ({"selection": {"policy": "all", "k": 1}}, "invalid", "/selection/k", ("leave it out",)),
    "unknown policy": ({"selection": {"policy": "best"}}, "invalid", "/selection/policy", ("top_k",)),
    "unknown ranking": (
        {"selection": {"policy": "top_k", "k": 1, "ranking": "rk_no"}},
        "invalid", "/selection/ranking", ("/v1/rankings",),
    ),
    "selection missing": ({"selection": None}, "invalid", "/selection", ()),
    "rate of zero": ({"training": {"learning_rate": 0}}, "invalid", "/training/learning_rate", ()),
    "no epochs": ({"training": {"epochs": 0}}, "invalid", "/training/epochs", ()),
    "warm-up of the whole run": (
        {"training": {"warmup_ratio": 1.0}}, "invalid", "/training/warmup_ratio", (),
    ),
    "warm-up longer than the run": (
        {"training": {"warmup_steps": 90_000}},
        "training_invalid", "/training/warmup_steps", ("90,000 steps", "the run has"),
    ),
    "two warm-ups": (
        {"training": {"warmup_steps": 2, "warmup_ratio": 0.1}},
        "invalid", "/training/warmup_steps", ("leave one out",),
    ),
    "metric of another task": (
        {"training": {"metric": "matthews"}}, "training_invalid", "/training/metric", ("accuracy",),
    ),
    "rates by a score that is not there": (
        {"training": {"layer_learning_rates": "fisher"}, "selection": {"policy": "all"}},
        "invalid", "/training/layer_learning_rates", ("has none",),
    ),
    "two rules for rates": (
        {"training": {"layer_learning_rates": "fisher", "layer_learning_rate_decay": 0.9}},
        "invalid", "/training/layer_learning_rates", ("leave one of them out",),
    ),
    "evaluations after the end": (
        {"training": {"evaluate_every_steps": 90_000}},
        "training_invalid", "/training/evaluate_every_steps", ("90,000", "the run has"),
    ),
    "two ways to a rate": (
        {"training": {"learning_rate": 1e-3, "learning_rates": [1e-3, 1e-4]}},
        "invalid", "/training/learning_rate", ("leave one of them out",),
    ),
    "a rise longer than a trial": (
        {"training": {"learning_rates": [1e-3, 1e-4], "warmup_steps": 200}},
        "training_invalid", "/training/warmup_steps", ("a trial of learning_rates has",),
    ),
    "more layers in turn than there are": (
        {"training": {"layer_schedule": {"type": "lisa", "layers": 3, "interval": 1}},
         "selection": {"policy": "last_k", "k": 2}},
        "training_invalid", "/training/layer_schedule/layers", ("draws 3 layers, and 2",),
    ),
    "an unfreezing after the end": (
        {"training": {"layer_schedule": {"type": "gradual", "every_epochs": 3}},
         "selection": {"policy": "all"}},
        "training_invalid", "/training/layer_schedule", ("the second layer would train",),
    ),
    "a schedule of several processes": (
        {"training": {"layer_schedule": {"type": "gradual", "every_epochs": 1}}, "processes": 2,
         "selection": {"policy": "all"}},
        "invalid", "/training/layer_schedule", ("several processes",),
    ),
    "a schedule that is none": (
        {"training": {"layer_schedule": {"type": "cyclic"}}},
        "invalid", "/training/layer_schedule", ("'gradual', 'lisa'",),
    ),
    "threshold without patience": (
        {"training": {"early_stopping_threshold": 0.1}},
        "invalid", "/training/early_stopping_threshold", ("early_stopping_patience",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FINETUNES)
def test_a_wrong_finetune_is_refused(case: str, api: TestClient) -> None:
    change, code, pointer, words = FINETUNES[case]
    body = problem(api.post("/v1/finetunes", json={**TUNE, **change}), 422, code)
    says(body, pointer, *words)
    assert api.get("/v1/jobs").json()["data"] == []


def test_a_ranking_of_another_model_is_refused(api: TestClient, mirrors: str) -> None:
    """Stored as a worker would store it; then asked for with the other model."""
    service = api.app.state.service  # type: ignore[attr-defined]
    created = api.post("/v1/rankings", json={**GOOD, "model": "tiny/other", "samples": 8}).json()
    selection = {"policy": "top_k", "k": 1, "ranking": created["id"]}
    early = problem(
        api.post("/v1/finetunes", json={**TUNE, "selection": selection}), 409, "conflict"
    )
    assert "wait until it has succeeded" in early["detail"]
    scores = {"fisher": {"encoder.layer.0": 1.0, "encoder.layer.1": 0.5}}
    result = ranking_result(scores).model_dump(mode="json")
    state_machine.finish(service.database, take(service.database), result, Learned())
    refused = problem(
        api.post("/v1/finetunes", json={**TUNE, "selection": selection}), 422, "selection_mismatch"
    )
    says(refused, "/selection/ranking", "same model")
    again = {**GOOD, "model": "tiny/other", "samples": 8}
    assert api.post("/v1/rankings?validate_only=true", json=again).json()["cached"] is True
    same = {**TUNE, "model": "tiny/other", "selection": selection}
    assert api.post("/v1/finetunes?validate_only=true", json=same).json()["valid"] is True
    view = api.get(f"/v1/rankings/{created['id']}/selection?k=1&format=peft").json()
    assert view["selection"] == {"layers_to_transform": [0], "layers_pattern": "layer"}
    mismatch = api.get(f"/v1/rankings/{created['id']}/selection?k=3")
    problem(mismatch, 422, "selection_mismatch")
