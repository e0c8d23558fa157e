"""LoRA and BitFit over HTTP: trained, kept, downloaded and put together again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner, Result

from surgeon.cli import app
from surgeon.client import ApiError
from surgery.checkpoints.checkpoint import load
from surgery.schemas.options.adapter import LORA_LEARNING_RATE
from tests.support.models.mirror import TINY
from tests.support.service.problems import ROWS, problem, says
from tests.support.service.services import Running

Json = dict[str, Any]
TRAINING = {"epochs": 1, "batch_size": 4, "max_length": 16, "learning_rate": 1e-2}
LORA = {"type": "lora", "rank": 2}


@pytest.fixture(scope="module")
def dataset(embedded_service: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    path.write_text(ROWS)
    return embedded_service.client.upload(path).id


def tuned(service: Running, dataset: str, adapter: Json, form: str) -> Json:
    body = {
        "model": TINY, "dataset": dataset, "adapter": adapter, "training": TRAINING,
        "checkpoints": {"form": form},
    }  # fmt: skip
    job = service.run("finetunes", body)
    assert job["result"]["trained_layers"] == []
    assert job["result"]["adapter"]["type"] == adapter["type"]
    return job


@torch.no_grad()
def logits(model: nn.Module, folder: Path) -> Tensor:
    rows = AutoTokenizer.from_pretrained(folder)("sentence number 3", return_tensors="pt")
    found: Tensor = model(**rows).logits
    return found


def test_a_lora_checkpoint_is_an_adapter_and_merges(
    embedded_service: Running, dataset: str, mirrors: str, tmp_path: Path
) -> None:
    client = embedded_service.client
    job = tuned(embedded_service, dataset, LORA, "delta")
    (checkpoint,) = client.checkpoints(job["id"])
    assert checkpoint["form"] == "adapter"
    names = {file["name"] for file in checkpoint["files"]}
    assert {"adapter_config.json", "adapter_model.safetensors", "surgery.json"} <= names
    kept = client.download(checkpoint["id"], tmp_path / "adapter")
    for form in ("full", "delta"):
        with pytest.raises(ApiError, match=r"surgery\.load") as raised:
            client.download(checkpoint["id"], tmp_path / form, form)
        assert raised.value.problem["status"] == 409
    base = Path(mirrors.split(":", maxsplit=1)[0]) / "models" / TINY
    merged = load(base, kept)
    whole = tuned(embedded_service, dataset, LORA, "full")
    (other,) = client.checkpoints(whole["id"])
    assert other["form"] == "full"
    folder = client.download(other["id"], tmp_path / "whole")
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(logits(plain, folder), logits(merged, kept), rtol=0, atol=1e-6)


def test_a_bitfit_checkpoint_is_a_delta(
    embedded_service: Running, dataset: str, tmp_path: Path
) -> None:
    job = tuned(embedded_service, dataset, {"type": "bitfit"}, "delta")
    (checkpoint,) = embedded_service.client.checkpoints(job["id"])
    assert checkpoint["form"] == "delta"
    folder = embedded_service.client.download(checkpoint["id"], tmp_path / "full", "full")
    AutoModelForSequenceClassification.from_pretrained(folder)


WRONG: dict[str, tuple[Json, str, str, tuple[str, ...]]] = {
    "layers too": (
        {"adapter": LORA, "selection": {"policy": "all"}}, "invalid", "/selection", ("adapter",),
    ),
    "rank over width": (
        {"adapter": {"type": "lora", "rank": 1000}}, "selection_mismatch", "/adapter/rank",
        ("at most 16",),
    ),
    "unknown adapter": ({"adapter": {"type": "ia3"}}, "invalid", "/adapter/type", ("lora",)),
    "alpha for bitfit": (
        {"adapter": {"type": "bitfit", "alpha": 4}}, "invalid", "/adapter/alpha", ("leave it out",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_adapter_is_refused(case: str, api: TestClient) -> None:
    change, code, pointer, words = WRONG[case]
    body = {"model": TINY, "dataset": "glue/rte", **change}
    says(problem(api.post("/v1/finetunes", json=body), 422, code), pointer, *words)
    assert api.get("/v1/jobs").json()["data"] == []


def test_lora_without_a_rate_is_stored_with_its_own(api: TestClient) -> None:
    def checked(**training: Any) -> Json:
        body = {"model": TINY, "dataset": "glue/rte", "adapter": LORA, "training": training}
        answer: Json = api.post("/v1/finetunes?validate_only=true", json=body).json()
        return answer

    left_out, named = checked(), checked(learning_rate=LORA_LEARNING_RATE)
    assert left_out["spec"]["training"]["learning_rate"] == LORA_LEARNING_RATE
    assert left_out["resolved"]["digest"] == named["resolved"]["digest"]
    of_layers = checked(learning_rate=5e-5)
    assert of_layers["spec"]["training"]["learning_rate"] == 5e-5
    assert of_layers["resolved"]["digest"] != named["resolved"]["digest"]


def test_the_command_trains_an_adapter_at_its_rate(
    embedded_service: Running, dataset: str, tmp_path: Path
) -> None:
    def surgeon(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--url", embedded_service.client.url])

    quick = ("--epochs", "1", "--batch-size", "4", "--max-length", "16")
    done = surgeon("tune", TINY, dataset, "--lora", "2", *quick, "--json")
    assert done.exit_code == 0, done.output
    job = json.loads(done.stdout)
    assert job["spec"]["adapter"] == {"type": "lora", "rank": 2, "alpha": None, "dropout": 0.0}
    assert job["spec"]["training"]["learning_rate"] == LORA_LEARNING_RATE
    named = surgeon("estimate", TINY, dataset, "--bitfit", "--json")
    assert json.loads(named.stdout)["rows"][0]["policy"] == "bitfit"
    for wrong, told in (
        (("--lora", "2", "--all"), "leave out what chooses layers"),
        (("--lora", "2", "--bitfit"), "only one of --lora and --bitfit"),
        (("--lora", "1000"), "--lora: "),
    ):
        refused = surgeon("tune", TINY, dataset, *wrong, *quick)
        assert refused.exit_code in {1, 2}
        assert told in " ".join(refused.output.replace("│", " ").split())
