"""Every option of a ranking over HTTP, from the request to the stored result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AlbertConfig, AlbertModel

from surgery.schemas.enums import Method
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.schemas.jobs.ranking import RankingResult
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.problems import Json, problem, says
from tests.support.service.services import Running

SAMPLES = 16
SMALL: Json = {
    "model": TINY, "dataset": "glue/rte", "samples": SAMPLES, "max_length": 16, "bootstrap": 200,
    "head": {"warmup_samples": 16},
}  # fmt: skip
PLAIN: Json = {**SMALL, "model_prior": False}
NEW_HEAD: Json = {"init": "new", "warmup_samples": 16}
LAYERS = [f"encoder.layer.{index}" for index in range(TINY_LAYERS)]
SHARED = "tiny/albert"
TRAINING: Json = {"max_steps": 2, "max_length": 16, "batch_size": 8}


@pytest.fixture(scope="module", autouse=True)
def shared_block(mirror: Path) -> None:
    """A model of three layers that are one block, as all ALBERTs are, beside the others."""
    target = mirror / "models" / SHARED
    shutil.copytree(mirror / "models" / TINY, target)
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=30522, embedding_size=8, hidden_size=16, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    AlbertModel(config).save_pretrained(target)


def ranked(service: Running, **change: object) -> Json:
    result: Json = service.run("rankings", {**PLAIN, **change})["result"]
    assert RankingResult.model_validate(result).model_dump(mode="json") == result
    return result


def names(result: Json) -> list[str]:
    return [layer["name"] for layer in result["layers"]]


def scores(result: Json) -> dict[str, float]:
    return {layer["name"]: layer["score"] for layer in result["layers"]}


METHODS = [m.value for m in Method if m not in {Method.FISHER, Method.ALL, Method.PAPER_COMPAT}]


def test_every_method_ranks_all_layers_and_one_table_holds_them(embedded_service: Running) -> None:
    service = embedded_service
    table = ranked(service, method="all")
    assert table["fisher"] == "empirical"
    together = {entry["method"]: entry for entry in table["methods"]["methods"]}
    assert sorted(together) == sorted(["fisher", *METHODS])
    assert together["fisher"]["scores"] == scores(table)
    taus = table["methods"]["kendall_tau"]
    assert taus["first"]["last"] == -1
    assert all(taus[one][two] == taus[two][one] for one in taus for two in taus)
    for method in METHODS:
        body = {name: value for name, value in PLAIN.items() if name != "model_prior"}
        alone = service.run("rankings", {**body, "method": method})["result"]
        assert alone["method"] == method
        assert sorted(names(alone)) == LAYERS
        assert scores(alone) == pytest.approx(together[method]["scores"], rel=1e-4, abs=1e-9)
        assert alone["aggregate"] is None
        assert alone["fisher"] is None


def test_the_order_of_a_method_of_places(embedded_service: Running) -> None:
    body = {"model": TINY, "dataset": "glue/rte"}
    job = embedded_service.run("rankings", {**body, "method": "last"})
    last = job["result"]
    assert job["resolved"]["device"]["name"].endswith(" threads")
    assert (
        job["resolved"]["device"]["memory_bytes"] is None
    )  # a processor's is no memory of its own
    assert names(last) == LAYERS[::-1]
    assert (last["head"], last["path"], last["model_prior"]) == (None, None, None)


def test_parts_of_layers_add_up_to_the_layers(embedded_service: Running) -> None:
    whole, parts, tensors = (
        ranked(embedded_service, granularity=granularity)
        for granularity in ("layer", "sublayer", "tensor")
    )
    assert len(parts["layers"]) == 2 * TINY_LAYERS
    assert [group["name"] for group in whole["groups"]] == ["embeddings", "pooler", "head"]
    for finer in (parts, tensors):
        assert finer["groups"] == whole["groups"]
        for layer in whole["layers"]:
            inside = [part for part in finer["layers"] if part["index"] == layer["index"]]
            assert all(part["name"].startswith(f"{layer['name']}.") for part in inside)
            assert sum(part["score"] for part in inside) == pytest.approx(layer["score"], rel=1e-5)
            assert sum(part["parameters"] for part in inside) == layer["parameters"]


def test_the_labels_of_the_gradients(embedded_service: Running) -> None:
    """Drawn often enough, labels give what the expectation over them gives."""
    exact = ranked(embedded_service, fisher="exact")
    drawn = ranked(embedded_service, fisher="sampled", draws=64)
    once = ranked(embedded_service, fisher="sampled")
    assert [exact["fisher"], drawn["fisher"]] == ["exact", "sampled"]
    assert scores(drawn) == pytest.approx(scores(exact), rel=0.1)
    assert scores(drawn) != scores(once)


def test_frobenius_has_an_estimate_without_bias(embedded_service: Running) -> None:
    result = ranked(embedded_service, aggregate="frobenius")
    assert all(layer["ci"] is None for layer in result["layers"])
    assert all(0 < layer["unbiased"] < layer["score"] for layer in result["layers"])
    assert result["stability"]["split_half_kendall_tau"] is not None


def test_precision_changes_the_scores_little(embedded_service: Running) -> None:
    full, half = (ranked(embedded_service, precision=kind) for kind in ("fp32", "bf16"))
    assert half["precision"] == "bf16"
    assert scores(half) != scores(full)
    assert scores(half) == pytest.approx(scores(full), rel=0.1)


def test_several_heads_are_averaged_and_their_spread_told(embedded_service: Running) -> None:
    result = ranked(embedded_service, head=NEW_HEAD, head_seeds=3)
    assert result["head_spread"]["heads"] == 3
    assert -1 <= result["head_spread"]["kendall_tau_min"] <= 1
    assert all(layer["head_std"] > 0 for layer in result["layers"])
    one = ranked(embedded_service, head=NEW_HEAD)
    assert (one["head_spread"], one["layers"][0]["head_std"]) == (None, None)


def test_adaptive_stops_when_certain_or_at_the_end(embedded_service: Running) -> None:
    result = ranked(embedded_service, adaptive=True, samples=100)
    rounds = result["adaptive"]["rounds"]
    assert [each["samples"] for each in rounds] == [32, 64, 100][: len(rounds)]
    assert result["samples"] == rounds[-1]["samples"]
    assert [each["level"] for each in rounds] == [pytest.approx(0.05 / 3)] * len(rounds)
    assert all(each["p_value"] > each["level"] for each in rounds[:-1])
    assert result["adaptive"]["certain"] == (rounds[-1]["p_value"] <= rounds[-1]["level"])
    assert result["adaptive"]["certain"] or result["samples"] == 100


def test_the_model_prior_is_on_unless_switched_off(embedded_service: Running) -> None:
    with_prior = embedded_service.run("rankings", SMALL)["result"]
    prior = with_prior["model_prior"]
    assert prior["samples"] == SAMPLES
    for agreement in (prior, prior["shuffled_tokens"]):
        assert -1 <= agreement["kendall_tau"] <= 1
        assert agreement["top_k_overlap"][str(TINY_LAYERS)] == 1
    without = ranked(embedded_service)
    assert without["model_prior"] is None
    assert without["layers"] == with_prior["layers"]


def test_the_computation_as_published(embedded_service: Running) -> None:
    body = {"model": TINY, "dataset": "glue/rte", "method": "paper_compat"}
    job = embedded_service.run("rankings", body)
    result = job["result"]
    assert sorted(names(result)) == LAYERS
    assert result["samples"] == min(100, job["resolved"]["rows"]["validation"])
    assert any("validation rows" in warning["message"] for warning in result["warnings"])


@pytest.mark.parametrize("kind", ["multiple_choice", "token_classification"])
def test_choices_and_tags_are_ranked(kind: str, embedded_service: Running, tmp_path: Path) -> None:
    rows: dict[str, list[Json]] = {
        "multiple_choice": [
            {"premise": f"the cat {i}", "choices": ["it runs", f"it sleeps {i}"], "label": i % 2}
            for i in range(40)
        ],
        "token_classification": [
            {"tokens": ["Ada", f"saw{i}", "London"], "tags": ["B", "O", "B" if i % 2 else "O"]}
            for i in range(40)
        ],
    }
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[kind]))
    data = embedded_service.client.upload(path, spec={"problem": kind})
    assert data.problem == kind
    result = ranked(embedded_service, dataset=data.id, fisher="exact")
    assert sorted(names(result)) == LAYERS
    assert all(layer["score"] > 0 for layer in result["layers"])

    body = {"model": TINY, "dataset": data.id, "method": "paper_compat"}
    if kind == "token_classification":
        body["method"] = "tangent"
    answer = embedded_service.client.driver.http.post("/v1/rankings", json=body)
    says(problem(answer, 422, "invalid"), "/method", kind, "another method")


def test_a_model_of_one_shared_block(embedded_service: Running) -> None:
    job = embedded_service.run("rankings", {**PLAIN, "model": SHARED})
    result = job["result"]
    (layer,) = result["layers"]
    assert (layer["rank"], layer["share"], layer["p_top_k"]) == (1, 1.0, {"1": 1.0})
    assert result["recommended_k"]["k"] == 1
    assert result["stability"]["split_half_kendall_tau"] is None
    table = ranked(embedded_service, model=SHARED, method="all")
    assert table["methods"]["kendall_tau"]["fisher"] == dict.fromkeys(["fisher", *METHODS])
    body = {
        "model": SHARED, "dataset": "glue/rte", "training": TRAINING,
        "selection": {"policy": "top_k", "k": 1, "ranking": job["id"]},
    }  # fmt: skip
    tuned = embedded_service.run("finetunes", body)["result"]
    assert tuned["trained_layers"] == [layer["name"]]


def test_any_method_may_choose_the_layers_and_the_ranking_is_tracked(
    embedded_service: Running,
) -> None:
    options = {"method": "tangent", "samples": SAMPLES, "max_length": 16}
    body = {
        "model": TINY, "dataset": "glue/rte", "track_ranking": True,
        "selection": {"policy": "top_k", "k": 2, "ranking": options},
        "training": {**TRAINING, "max_steps": None, "epochs": 2},
    }  # fmt: skip
    job = embedded_service.run("finetunes", body)
    result = job["result"]
    assert FinetuneResult.model_validate(result).model_dump(mode="json") == result
    ranking = embedded_service.client.job(result["ranking"])["result"]
    assert ranking["method"] == "tangent"
    assert set(result["trained_layers"]) == set(names(ranking)[:2])
    assert sorted(result["ranking_at_start"]) == LAYERS
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]
    for epoch in result["epochs"]:
        assert sorted(epoch["ranking"]["scores"]) == LAYERS
        assert epoch["ranking"]["scores"] != result["ranking_at_start"]
    path = f"/v1/jobs/{job['id']}/metrics?name=ranking_kendall_tau"
    told = [row["value"] for row in embedded_service.client.call("GET", path)["data"]]
    assert told == [epoch["ranking"]["kendall_tau"] for epoch in result["epochs"]]
