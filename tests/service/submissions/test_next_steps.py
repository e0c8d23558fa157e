"""What the answer for a job that has ended says to do next."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.examples.answers import FINETUNE_RESULT, RANKING_RESULT, SEARCH_RESULT
from app.db.tables import WORKER_KINDS, Job
from app.jobs import state_machine
from surgeon.terminal.next_steps import step_lines
from surgery.evaluation.comparison import comparison_table
from surgery.evaluation.learning import ABOVE, GREW, NO_BETTER, ONE_VALUE
from surgery.schemas.resolved import Learned
from tests.support.models.mirror import TINY
from tests.support.service.finished_runs import METRIC, grid, plan
from tests.support.service.problems import Json, upload

SEEDS = "--arm all --seeds 0,1,2"
RATES = "--learning-rates 5e-05,0.0001,0.0003"

TWO = {"k": 2, "reason": "half of the score"}


def layers(*order: int) -> list[Json]:
    [first, *_] = RANKING_RESULT["layers"]
    return [
        {**first, "rank": n, "index": i, "name": f"encoder.layer.{i}"}
        for n, i in enumerate(order, 1)
    ]


def finished(api: TestClient, collection: str, body: Json, result: Json | None) -> Json:
    """A job that ended with this result, or failed without one."""
    service: Any = api.app.state.service  # type: ignore[attr-defined]
    job = api.post(f"/v1/{collection}", json={**body, "priority": 9}).json()
    claimed = state_machine.claim(service.database, "w", WORKER_KINDS, timedelta(seconds=60))
    assert claimed is not None
    assert claimed[0].job_id == job["id"]
    if result is None:
        error = {"code": "scores_not_finite", "detail": "NaN in the weights", "retriable": False}
        state_machine.fail(service.database, claimed[0], error)
    else:
        state_machine.finish(service.database, claimed[0], result, Learned())
    answer: Json = api.get(f"/v1/jobs/{job['id']}").json()
    return answer


def commands(api: TestClient, job: Json) -> list[str]:
    """The steps as commands; each request passes every check of the service."""
    for step in job["next_steps"]:
        if step["body"] is not None:
            answer = api.post(f"{step['path']}?validate_only=true", json=step["body"])
            assert answer.status_code == 200, answer.text
    return shown(job)


def shown(job: Json, width: int = 1000) -> list[str]:
    lines = step_lines(job["next_steps"], width)
    return [line.strip() for line in lines if line.startswith("  ")]


@pytest.fixture(scope="module")
def dataset(api: TestClient) -> str:
    rows = "text,label\n" + "".join(f"sentence number {n},{n % 2}\n" for n in range(40))
    return str(upload(api, rows).json()["id"])


def test_a_ranking_that_finds_little_names_a_search(api: TestClient, dataset: str) -> None:
    prior = {**RANKING_RESULT["model_prior"], "kendall_tau": 0.9}
    head = {**RANKING_RESULT["head"], "loss": 0.69, "baseline_loss": 0.7}
    result = {**RANKING_RESULT, "layers": layers(3, 2, 0, 1), "model_prior": prior, "head": head}
    result["recommended_k"] = TWO
    result["stability"] = {**RANKING_RESULT["stability"], "ambiguous_k": [2]}
    body = {"model": TINY, "dataset": dataset, "max_length": 32}
    job = finished(api, "rankings", body, result)
    why = job["next_steps"][0]["why"]
    for doubt in ("(τ 0.90 with that on shuffled labels)", "hardly predicts", "the top 2 depends"):
        assert doubt in why
    arms = f"--arm top-2:layers=2,3 --arm first-2:first_k=2 {SEEDS} --max-length 32 {RATES}"
    assert commands(api, job) == [
        f"surgeon search {TINY} {dataset} --max-length 32",
        f"surgeon compare {TINY} {dataset} {arms}",
    ]


def test_a_ranking_without_doubts_names_the_fine_tune(api: TestClient) -> None:
    certain = {"loss": 0.3, "baseline_loss": 0.7}
    result = {
        **RANKING_RESULT, "layers": layers(0, 2, 1, 3),
        "head": {**RANKING_RESULT["head"], **certain},
        "model_prior": {**RANKING_RESULT["model_prior"], "kendall_tau": 0.1},
        "recommended_k": TWO,
    }  # fmt: skip
    job = finished(api, "rankings", {"model": TINY, "dataset": "glue/rte"}, result)
    others = "--arm top-2:layers=0,2 --arm last-2:last_k=2"
    assert commands(api, job) == [
        f"surgeon tune {TINY} glue/rte --top-k 2 --ranking {job['id']}",
        f"surgeon compare {TINY} glue/rte {others} {SEEDS} {RATES}",
    ]
    folded = shown(job, 80)
    assert all(len(line) <= 78 for line in folded)
    assert " ".join(folded).replace(" \\ ", " ") == " ".join(shown(job))
    listed = api.get("/v1/jobs", params={"fields": "id,next_steps"}).json()["data"]
    assert {"id": job["id"], "next_steps": job["next_steps"]} in listed


def test_a_search_names_what_trains_its_choice_and_a_larger_budget(api: TestClient) -> None:
    body = {
        "model": TINY, "dataset": "glue/rte", "families": ["single", "all"], "held_out": 0.3,
        "training": {"epochs": 5},
    }  # fmt: skip
    unsure = finished(api, "searches", body, {**SEARCH_RESULT, "winner": None})
    tune = f"surgeon tune {TINY} glue/rte --search --search-id {unsure['id']} --epochs 5"
    again = f"surgeon search {TINY} glue/rte --families single,all --held-out 0.3"
    assert [step["path"] for step in unsure["next_steps"]] == ["/v1/finetunes", "/v1/searches"]
    assert shown(unsure) == [tune, f"{again} --budget-share 0.7 --epochs 5"]
    sure = finished(api, "searches", body, {**SEARCH_RESULT, "winner": "1+2"})
    assert len(sure["next_steps"]) == 1
    largest = {**body, "budget_share": 10}
    most = finished(api, "searches", largest, {**SEARCH_RESULT, "winner": None})
    assert [step["path"] for step in most["next_steps"]] == ["/v1/finetunes"], "none is larger"


def test_a_job_that_did_not_succeed_names_its_retry(api: TestClient) -> None:
    body = {"model": TINY, "dataset": "glue/rte", "seed": 3}
    failed = finished(api, "rankings", body, None)
    [step] = failed["next_steps"]
    assert (step["path"], step["body"]) == (f"/v1/jobs/{failed['id']}/retry", None)
    assert "once what the error names is mended" in step["why"]
    assert commands(api, failed) == [f"surgeon retry {failed['id']}"]
    waiting = api.post(step["path"]).json()
    assert waiting["next_steps"] == []
    cancelled = api.post(f"/v1/jobs/{waiting['id']}/cancel").json()
    assert commands(api, cancelled) == [f"surgeon retry {waiting['id']}"]


def warned(*codes: str) -> list[Json]:
    return [{"code": code, "message": "as it says", "remedy": None} for code in codes]


def test_a_finetune_names_the_download_of_its_best_checkpoint(api: TestClient) -> None:
    best = FINETUNE_RESULT["best_checkpoint"]
    body: Json = {"model": TINY, "dataset": "glue/rte", "selection": {"policy": "last_k", "k": 2}}
    job = finished(api, "finetunes", body, FINETUNE_RESULT)
    [step] = job["next_steps"]
    assert (step["method"], step["body"]) == ("GET", None)
    assert step["path"] == f"/v1/checkpoints/{best}/archive?form=full"
    assert shown(job) == [f"surgeon download {best} DIR --form full"]
    lora: Json = {"adapter": {"type": "lora"}}
    job = finished(
        api, "finetunes", {**body, "selection": {"policy": "head_only"}, **lora},
        {**FINETUNE_RESULT, **lora},
    )  # fmt: skip
    assert shown(job) == [f"surgeon download {best} DIR"]
    gone = finished(api, "finetunes", body, {**FINETUNE_RESULT, "best_checkpoint": None})
    assert gone["next_steps"] == []


OTHERS = "--arm all --arm head_only --seeds 0,1,2"


@pytest.mark.parametrize(
    ("body", "arms"),
    [
        ({"selection": {"policy": "last_k", "k": 2}}, f"--arm last_k=2 {OTHERS}"),
        ({"selection": {"policy": "layers", "layers": [1, 3]}}, f"--arm layers=1,3 {OTHERS}"),
        ({"selection": {"policy": "all", "include": ["pooler"]}},
         f"--arm all,include=pooler {OTHERS}"),
        ({"selection": {"policy": "head_only"}}, f"--arm head_only {SEEDS}"),
        ({"adapter": {"type": "lora", "rank": 4}},
         f"--arm lora:lora=4,learning_rates=0.0002,0.0005,0.001 {OTHERS}"),
    ],
)  # fmt: skip
def test_a_finetune_that_learned_nothing_names_what_would_find_out_why(
    body: Json, arms: str, api: TestClient
) -> None:
    training = {"learning_rate": 1e-4, "epochs": 2, "batch_size": 16, "seed": 4}
    request = {"model": TINY, "dataset": "glue/rte", **body, "training": training}
    for code in (NO_BETTER, ONE_VALUE):
        result = {**FINETUNE_RESULT, "warnings": warned(GREW, code), "ranking": None}
        job = finished(api, "finetunes", request, result)
        own = "--epochs 2 --batch-size 16"
        assert commands(api, job) == [
            f"surgeon search {TINY} glue/rte {own}",
            f"surgeon compare {TINY} glue/rte {arms} {own} {RATES}",
        ]


def test_a_finetune_whose_loss_rose_is_trained_at_lower_rates(api: TestClient) -> None:
    body = {
        "model": TINY, "dataset": "glue/rte", "selection": {"policy": "all"},
        "training": {"learning_rate": 3e-3, "epochs": 2, "head": {"fit": "epochs"}},
        "track_ranking": True, "name": "too fast",
    }  # fmt: skip
    job = finished(api, "finetunes", body, {**FINETUNE_RESULT, "warnings": warned(ABOVE)})
    options = "--all --epochs 2 --head-fit epochs --learning-rates 0.0001,0.0003,0.001"
    assert commands(api, job)[1:] == [
        f"surgeon tune {TINY} glue/rte --track-ranking {options}",
    ]
    adapted = {**body, "adapter": {"type": "lora"}, "training": {"epochs": 2}}
    del adapted["selection"], adapted["track_ranking"]
    lora = finished(api, "finetunes", adapted, {**FINETUNE_RESULT, "warnings": warned(GREW)})
    lower = "--lora 8 --epochs 2 --learning-rates 2e-05,5e-05,0.0002"
    assert commands(api, lora)[1:] == [f"surgeon tune {TINY} glue/rte {lower}"]
    found = {**body, "selection": {"policy": "search", "search": {"seed": 3}}}
    del found["training"]
    searched = finished(api, "finetunes", found, {**FINETUNE_RESULT, "warnings": warned(ABOVE)})
    assert len(searched["next_steps"]) == 1, "a search has tried lower rates"


def compared(
    api: TestClient, body: Json, metrics: dict[str, list[float]], noise: float, *codes: str
) -> Json:
    """A comparison whose runs ended with these metrics, by arm and seed, without being run."""
    service: Any = api.app.state.service  # type: ignore[attr-defined]
    body = {"model": TINY, "dataset": "glue/rte", **body}
    job = api.post("/v1/comparisons", json={**body, "priority": -9}).json()
    runs = grid(metrics, noise)
    for run in runs:
        assert run.result is not None
        run.result.baseline = {METRIC: 0.5}
    table = comparison_table([plan(arm) for arm in metrics], runs, rows=277)
    result = {**table.model_dump(mode="json"), "warnings": warned(*codes)}
    with service.database.write() as session:
        stored = session.get_one(Job, job["id"])
        stored.status, stored.result = "succeeded", result
    answer: Json = api.get(f"/v1/jobs/{job['id']}").json()
    return answer


TWO_ARMS: Json = {
    "arms": [
        {"name": "few", "selection": {"policy": "last_k", "k": 1}},
        {"name": "lora", "adapter": {"type": "lora"}},
    ],
    "training": {"epochs": 2, "learning_rate": 1e-4},
}


def test_a_comparison_that_is_decided_names_the_download_of_its_arm(api: TestClient) -> None:
    winner = compared(api, TWO_ARMS, {"few": [0.9, 0.91, 0.9], "lora": [0.7, 0.71, 0.7]}, 0.01)
    assert winner["result"]["decision"]["outcome"] == "winner"
    assert shown(winner) == ["surgeon download ck_1 DIR --form full"]
    assert winner["next_steps"][0]["why"] == "use the checkpoint of few, the arm to take"
    shared = compared(
        api, TWO_ARMS, {"few": [0.9, 0.91, 0.9], "lora": [0.7, 0.71, 0.7]}, 0.01,
        "shared_learning_rate",
    )  # fmt: skip
    arms = "--arm few:last_k=1 --arm lora --epochs 2"
    assert commands(api, shared)[1:] == [f"surgeon compare {TINY} glue/rte {arms} {RATES}"]


def test_a_comparison_that_decides_nothing_names_the_seeds_that_would(
    api: TestClient, dataset: str
) -> None:
    close = {"few": [0.8, 0.83], "lora": [0.77, 0.78]}
    body = {**TWO_ARMS, "seeds": [5, 7]}
    open_ = compared(api, body, close, 0.001)
    needed = open_["result"]["decision"]["others"][0]["needed"]["seeds"]
    assert 2 < needed <= 16
    [_, again] = open_["next_steps"]
    assert again["body"]["seeds"] == [
        5,
        7,
        *[n for n in range(20) if n not in {5, 7}][: needed - 2],
    ]
    assert again["why"] == f"some {needed} seeds would tell few from lora"
    assert commands(api, open_)[1].startswith(f"surgeon compare {TINY} glue/rte --arm few:last_k=1")
    single = compared(api, {**TWO_ARMS, "seeds": [5]}, {"few": [0.8], "lora": [0.79]}, 0.001)
    assert single["next_steps"][1]["body"]["seeds"] == [5, 0, 1]
    noisy = compared(
        api, {**body, "dataset": dataset}, {"few": [0.8] * 2, "lora": [0.79] * 2}, 0.03
    )
    rows = noisy["result"]["decision"]["others"][0]["needed"]["validation_rows"]
    assert rows > 277
    why = noisy["next_steps"][1]["why"]
    assert "validation rows, which would tell few from lora" in why
    assert shown(noisy)[1] == "surgeon upload TRAIN_FILE --validation VALIDATION_FILE"


def test_a_comparison_in_which_nothing_learned_names_a_search(api: TestClient) -> None:
    bad = {"few": [0.5, 0.51, 0.5], "lora": [0.5, 0.49, 0.5]}
    job = compared(api, TWO_ARMS, bad, 0.1, NO_BETTER)
    assert job["result"]["decision"]["outcome"] == "baseline"
    search = f"surgeon search {TINY} glue/rte --epochs 2"
    compare = f"surgeon compare {TINY} glue/rte --arm few:last_k=1 --arm lora --epochs"
    assert commands(api, job) == [search, f"{compare} 2 {RATES}"]
    tried = {**TWO_ARMS, "training": {"epochs": 2, "learning_rates": [1e-4, 1e-3]}}
    again = compared(api, tried, bad, 0.1)
    assert commands(api, again) == [search, f"{compare} 4 --learning-rates 0.0001,0.001"]


def test_a_search_that_found_nothing_to_learn_does_not_name_its_choice(api: TestClient) -> None:
    body = {"model": TINY, "dataset": "glue/rte"}
    result = {**SEARCH_RESULT, "winner": "1+2", "warnings": warned(NO_BETTER)}
    job = finished(api, "searches", body, result)
    assert commands(api, job) == [f"surgeon search {TINY} glue/rte --budget-share 0.7"]
