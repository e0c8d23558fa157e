"""Equal rankings on running services: workers compute one, and whoever waits goes on."""

from __future__ import annotations

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running

OPTIONS = {"samples": 16, "max_length": 16, "model_prior": False, "head": {"warmup_samples": 16}}
SUBJECT = {"model": TINY, "dataset": "glue/rte"}
TRAINING = {"epochs": 1, "max_steps": 1, "max_length": 16, "batch_size": 4}


@pytest.mark.parametrize(
    "deployment",
    ["embedded_service", pytest.param("production_service", marks=pytest.mark.slow)],
)
def test_one_is_computed_and_the_others_have_its_result(
    deployment: str, request: pytest.FixtureRequest
) -> None:
    service: Running = request.getfixturevalue(deployment)
    ranking = {**SUBJECT, **OPTIONS, "seed": 41}
    selection = {"policy": "top_k", "k": 1, "ranking": {**OPTIONS, "seed": 41}}
    first = service.client.submit("rankings", ranking)
    second = service.client.submit("rankings", {**ranking, "name": "mine"})
    tune = service.client.submit(
        "finetunes", {**SUBJECT, "selection": selection, "training": TRAINING}
    )
    first, second, tune = (service.finished(job) for job in (first, second, tune))
    assert [job["status"] for job in (first, second, tune)] == ["succeeded"] * 3, service.logs()
    assert (first["cached"], second["cached"]) == (False, True)
    assert (second["result_of"], second["result"]) == (first["id"], first["result"])
    assert second["name"] == "mine"
    assert tune["result"]["ranking"] == first["id"]
    assert tune["result"]["trained_layers"] == [first["result"]["layers"][0]["name"]]
