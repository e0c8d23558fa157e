"""Every policy at every granularity, from the request to the trained checkpoint.

What a search finds is in tests/service/jobs/searches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from surgery.schemas.enums import POLICIES, Granularity, Policy
from tests.support.models.mirror import TINY
from tests.support.outside.axolotl_patterns import unfrozen
from tests.support.service.problems import ROWS, problem, says
from tests.support.service.services import Running, wait_until

Json = dict[str, Any]
RANKING = {
    "samples": 8, "max_length": 16, "head": {"warmup_samples": 8}, "model_prior": False,
    "bootstrap": 0,
}  # fmt: skip
TRAINING = {"epochs": 1, "max_steps": 1, "batch_size": 4, "max_length": 16}
HEAD = 2 * 16 + 2  # the classifier; the checkpoint has a pooler
BUDGET = {"layer": 3000, "sublayer": 3000, "tensor": 900}
RANKED = [policy for policy, facts in POLICIES.items() if facts.needs_ranking]
UNDIVIDED = (Policy.ALL, Policy.HEAD_ONLY)


def every() -> Iterator[Any]:
    """Every policy and granularity; in the quick run each policy with layers and one finer part."""
    finer = [kind for kind in Granularity if kind is not Granularity.LAYER]
    chosen_at_once = [policy for policy in Policy if not POLICIES[policy].searches]
    for number, policy in enumerate(chosen_at_once):
        yield pytest.param(policy, Granularity.LAYER)
        for kind in () if policy in UNDIVIDED else finer:
            quick = kind is finer[number % len(finer)]
            yield pytest.param(policy, kind, marks=() if quick else pytest.mark.slow)


@pytest.fixture(scope="module")
def dataset(embedded_service: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    path.write_text(ROWS)
    return embedded_service.client.upload(path).id


@pytest.fixture(scope="module")
def rankings(embedded_service: Running, dataset: str) -> dict[str, Json]:
    """One of each granularity."""
    body = {"model": TINY, "dataset": dataset, **RANKING}
    return {
        kind: embedded_service.run("rankings", {**body, "granularity": kind})
        for kind in Granularity
    }


@pytest.fixture(scope="module")
def parts(embedded_service: Running) -> dict[str, dict[str, int]]:
    """Name → parameters, bottom to top, as the service describes the model."""
    found = {}
    for kind in Granularity:
        info = embedded_service.client.call("GET", f"/v1/models/{TINY}?granularity={kind}")
        listed = info["layers"] if kind == "layer" else info["parts"][kind]
        found[str(kind)] = {part["name"]: part["parameters"] for part in listed}
        assert set(info["parts"]) == ({kind} if kind != "layer" else set())
    return found


def settings(policy: str, kind: str, names: list[str]) -> Json:
    if policy.endswith("_k"):
        return {"policy": policy, "k": 2}
    return {
        "top_share": {"policy": policy, "share": 0.4},
        "max_parameters": {"policy": policy, "max_parameters": BUDGET[kind]},
        "layers": {"policy": policy, "layers": names[1:3]},
    }.get(policy, {"policy": policy})


def expected(policy: str, kind: str, sizes: dict[str, int], ranking: Json) -> set[str] | None:
    """Which parts the policy means, from the ranking as it was answered; None: any two."""
    names, ranked = list(sizes), ranking["result"]["layers"]
    order = [layer["name"] for layer in ranked]
    held = list(accumulate(layer["share"] for layer in ranked))
    fitting: list[str] = []
    for name in order:
        if sum(sizes[each] for each in [*fitting, name]) <= BUDGET[kind]:
            fitting.append(name)
    known = {
        "top_k": order[:2], "bottom_k": order[-2:], "first_k": names[:2], "last_k": names[-2:],
        "top_share": order[: sum(share < 0.4 for share in held) + 1], "max_parameters": fitting,
        "layers": names[1:3], "all": names, "head_only": [], "random_k": None,
    }[policy]  # fmt: skip
    return None if known is None else set(known)


@pytest.mark.parametrize(("policy", "kind"), list(every()))
def test_what_is_selected_trains(
    policy: str, kind: str, embedded_service: Running, dataset: str,
    rankings: dict[str, Json], parts: dict[str, dict[str, int]],
) -> None:  # fmt: skip
    sizes = parts[kind]
    selection = settings(policy, kind, list(sizes))
    if policy in RANKED:
        selection["ranking"] = rankings[kind]["id"]
    elif kind != "layer":
        selection["granularity"] = kind
    body = {"model": TINY, "dataset": dataset, "selection": selection, "training": TRAINING}
    job = embedded_service.run("finetunes", body)
    result, resolved = job["result"], job["resolved"]
    trained = result["trained_layers"]
    told = expected(policy, kind, sizes, rankings[kind])
    assert set(trained) == told if told is not None else len(set(trained)) == 2
    assert trained == resolved["layers"] == [name for name in sizes if name in trained]
    assert result["frozen_verified"] is True
    chosen = sum(sizes[name] for name in trained)
    assert resolved["selected_parameters"] == chosen
    assert result["trainable_parameters"] == resolved["trainable_parameters"] == chosen + HEAD
    assert resolved["granularity"] == kind
    assert ("scores" in resolved) == (policy in RANKED)
    if policy in RANKED:
        ranked = rankings[kind]["result"]["layers"]
        assert resolved["scores"] == {layer["name"]: layer["score"] for layer in ranked}


@pytest.mark.parametrize("kind", Granularity)
def test_the_ranking_of_the_granularity_is_computed_first(
    kind: str, embedded_service: Running, dataset: str
) -> None:
    """Of options that leave the granularity open, and kept with the scores it chose by."""
    options = {**RANKING, "seed": 5}
    selection = {
        "policy": "top_share", "share": 0.3, "granularity": kind, "ranking": options,
        "include": ["embeddings"],
    }  # fmt: skip
    training = {**TRAINING, "layer_learning_rates": "fisher"}
    body = {"model": TINY, "dataset": dataset, "selection": selection, "training": training}
    dry = embedded_service.client.driver.http.post(
        "/v1/finetunes?validate_only=true", json=body
    ).json()
    assert dry["resolved"]["granularity"] == kind
    assert "layers" not in dry["resolved"]
    job = embedded_service.run("finetunes", body)
    ranking = embedded_service.client.job(job["result"]["ranking"])
    assert (ranking["result"]["granularity"], ranking["parent"]) == (kind, job["id"])
    ranked = {layer["name"]: layer["score"] for layer in ranking["result"]["layers"]}
    resolved = job["resolved"]
    assert resolved["scores"] == ranked
    assert resolved["layers"] == job["result"]["trained_layers"]
    assert set(resolved["layers"]) == set(list(ranked)[: len(resolved["layers"])])
    assert resolved["trainable_parameters"] == job["result"]["trainable_parameters"]
    assert resolved["selected_parameters"] == resolved["trainable_parameters"] - HEAD
    assert job["result"]["included"] == ["embeddings"]


@pytest.mark.parametrize("form", ["json", "regex", "axolotl", "peft"])
@pytest.mark.parametrize("kind", Granularity)
@pytest.mark.parametrize("policy", [*RANKED, "first_k"])
def test_a_ranking_as_a_selection(
    policy: str, kind: str, form: str, embedded_service: Running,
    rankings: dict[str, Json], parts: dict[str, dict[str, int]],
) -> None:  # fmt: skip
    sizes, ranking = parts[kind], rankings[kind]
    query = {**settings(policy, kind, list(sizes)), "format": form}
    path = f"/v1/rankings/{ranking['id']}/selection"
    answer = embedded_service.client.driver.http.get(path, params=query)
    if form == "peft" and kind != "layer":
        says(problem(answer, 422, "selection_mismatch"), "/format", "regex")
        return
    body = answer.json()
    names = expected(policy, kind, sizes, ranking)
    assert names is not None
    assert body["granularity"] == kind
    assert body["trainable_parameters"] == sum(sizes[name] for name in names)
    assert body["total_parameters"] > sum(parts["layer"].values())
    tensors = list(parts["tensor"])
    assert body["matches"] == len(tensors_of(names, kind, tensors))
    view = body["selection"]
    if form == "json":
        assert [part["name"] for part in view["layers"]] == [n for n in sizes if n in names]
    elif form == "peft":
        assert sorted(view["layers_to_transform"]) == sorted(int(n[-1]) for n in names)
    else:
        own = [f"bert.{name}" for name in tensors]
        if form == "regex":
            full = {name for name in own if re.fullmatch(view["regex"], name)}
        else:
            full = unfrozen(view["unfrozen_parameters"], own)
        matched = [name for name in tensors if f"bert.{name}" in full]
        assert sum(parts["tensor"][n] for n in matched) == body["trainable_parameters"]


def tensors_of(names: set[str], kind: str, tensors: list[str]) -> list[str]:
    """The tensors of parts with these names, in a BERT."""
    if kind == "sublayer":
        cut = [(name, "attention.") for name in names if name.endswith(".attention")]
        cut += [(name, "") for name in names if name.endswith(".feed_forward")]
        return [
            tensor
            for tensor in tensors
            for name, start in cut
            for block in [name.rpartition(".")[0] + "."]
            if tensor.startswith(block)
            and tensor.removeprefix(block).startswith("attention.") == bool(start)
        ]
    return [t for t in tensors if any(t == name or t.startswith(f"{name}.") for name in names)]


def test_the_matches_of_a_model_that_is_gone_are_not_known(
    embedded_service: Running, rankings: dict[str, Json]
) -> None:
    path = f"/v1/rankings/{rankings['layer']['id']}/selection"
    config = Path(embedded_service.environment["SURGEON_MIRROR_DIR"].split(os.pathsep)[0])
    config = config / "models" / TINY / "config.json"
    aside = config.with_suffix(".aside")
    config.rename(aside)
    try:
        assert embedded_service.client.call("GET", f"{path}?k=1&format=regex")["matches"] is None
    finally:
        aside.rename(config)
    assert embedded_service.client.call("GET", f"{path}?k=1&format=regex")["matches"] == 16


def test_a_resumed_attempt_trains_what_was_resolved(
    embedded_service: Running, dataset: str
) -> None:
    """The worker is killed after the ranking; the next attempt does not choose again."""
    selection = {
        "policy": "top_k", "k": 2, "granularity": "tensor", "ranking": {**RANKING, "seed": 9},
    }  # fmt: skip
    body = {
        "model": TINY, "dataset": dataset, "selection": selection,
        "training": {**TRAINING, "max_steps": None, "epochs": 300},
    }  # fmt: skip
    job = embedded_service.client.submit("finetunes", body)

    def current() -> Json:
        return embedded_service.client.job(job["id"])

    wait_until(lambda: "trainable_parameters" in current()["resolved"], 60, embedded_service.logs)
    before = current()["resolved"]
    for child in embedded_service.children():
        child.kill()
    wait_until(lambda: current()["attempt"] == 2, 60, embedded_service.logs)
    embedded_service.client.call("POST", f"/v1/jobs/{job['id']}/cancel")
    embedded_service.finished(job)
    assert {k: current()["resolved"][k] for k in before} == before


def test_a_wrong_selection_of_a_ranking(
    embedded_service: Running, rankings: dict[str, Json]
) -> None:
    path = f"/v1/rankings/{rankings['tensor']['id']}/selection"
    for query, pointer, code in (
        ("policy=top_share", "/policy", "invalid"),
        ("policy=top_share&share=2", "/share", "invalid"),
        ("policy=max_parameters&max_parameters=1", "/selection/max_parameters", "selection_empty"),
        ("policy=top_k&k=1000", "/selection/k", "selection_mismatch"),
        ("policy=top_k&k=1&share=0.5", "/share", "invalid"),
        ("policy=search", "/selection/policy", "selection_mismatch"),
    ):
        answer = embedded_service.client.driver.http.get(f"{path}?{query}")
        says(problem(answer, 422, code), pointer)


def test_a_ranking_named_by_id_sets_the_granularity(
    embedded_service: Running, dataset: str, rankings: dict[str, Json]
) -> None:
    body: Json = {"model": TINY, "dataset": dataset}
    for kind in Granularity:
        for other in Granularity:
            selection = {
                "policy": "top_k", "k": 1, "granularity": other, "ranking": rankings[kind]["id"],
            }  # fmt: skip
            answer = embedded_service.client.driver.http.post(
                "/v1/finetunes?validate_only=true", json={**body, "selection": selection}
            )
            if kind == other:
                assert answer.json()["resolved"]["granularity"] == kind
            else:
                refused = problem(answer, 422, "selection_mismatch")
                says(refused, "/selection/granularity", f"set granularity to {kind}")
