"""Checkpoints exported to folders of the object store by a running service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from surgeon.cli import app
from surgeon.client import ApiError
from surgery.checkpoints.checkpoint import load
from surgery.io.folders import is_intact, read_manifest
from surgery.schemas.jobs.export import ExportResult
from tests.support.models.mirror import TINY
from tests.support.service.problems import ROWS
from tests.support.service.services import Running

Json = dict[str, Any]
TRAINING = {"epochs": 1, "batch_size": 4, "max_length": 16, "learning_rate": 1e-2}


@dataclass(frozen=True)
class Tuned:
    """A fine-tune that has ended."""

    running: Running
    job: Json

    @property
    def checkpoint(self) -> str:
        return str(self.job["result"]["best_checkpoint"])

    def export(self, target: str, **options: Any) -> Json:
        body = {"to": "folder", "target": target, **options}
        return self.running.run(f"checkpoints/{self.checkpoint}/exports", body)

    def folder(self, target: str) -> Path:
        return self.running.data / "artifacts" / "exports" / "pr_default" / target


def tuned(running: Running, folder: Path, **more: Any) -> Tuned:
    path = folder / "t.csv"
    path.write_text(ROWS)
    dataset = running.client.upload(path).id
    body = {"model": TINY, "dataset": dataset, "training": TRAINING, **more}
    return Tuned(running, running.run("finetunes", body))


@pytest.fixture(scope="module")
def delta(embedded_service: Running, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    selection = {"policy": "last_k", "k": 1}
    return tuned(embedded_service, tmp_path_factory.mktemp("delta"), selection=selection)


@pytest.fixture(scope="module")
def adapter(embedded_service: Running, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    lora = {"type": "lora", "rank": 2}
    return tuned(embedded_service, tmp_path_factory.mktemp("adapter"), adapter=lora)


@torch.no_grad()
def logits(model: Any, folder: Path) -> torch.Tensor:
    rows = AutoTokenizer.from_pretrained(folder)("sentence number 3", return_tensors="pt")
    found: torch.Tensor = model(**rows).logits
    return found


def check(result: Json, folder: Path) -> None:
    """The folder is what the result says, and nothing else."""
    assert is_intact(folder)
    entries = read_manifest(folder)
    listed = {file["name"]: (file["bytes"], file["sha256"]) for file in result["files"]}
    assert listed == {name: (each["bytes"], each["sha256"]) for name, each in entries.items()}
    assert {path.name for path in folder.iterdir()} == {*entries, "manifest.json"}
    assert result["bytes"] == sum(each["bytes"] for each in entries.values())
    assert result["location"] == f"exports/pr_default/{folder.name}"


def test_a_delta_becomes_the_folder_that_a_download_gives(delta: Tuned, tmp_path: Path) -> None:
    job = delta.export("whole")
    folder, result = delta.folder("whole"), job["result"]
    check(result, folder)
    ExportResult.model_validate(result)
    assert (result["form"], result["created"]) == ("full", True)
    downloaded = delta.running.client.download(delta.checkpoint, tmp_path / "full", "full")
    for name in read_manifest(folder):
        assert (folder / name).read_bytes() == (Path(downloaded) / name).read_bytes(), name
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert torch.isfinite(logits(model, folder)).all()
    assert job["usage"]["stored_bytes"] >= result["bytes"]
    assert set(job["usage"]["worker_seconds"]) == {"cpu"}
    assert job["progress"]["percent"] == 100.0


def test_the_stored_form_is_taken_as_it_is(delta: Tuned) -> None:
    result = delta.export("trained-only", form="delta")["result"]
    check(result, delta.folder("trained-only"))
    stored = delta.running.client.call("GET", f"/v1/checkpoints/{delta.checkpoint}")["files"]
    assert {file["name"]: file["sha256"] for file in result["files"]} == {
        file["name"]: file["sha256"] for file in stored
    }


def test_an_adapter_is_exported_as_such_or_merged(
    adapter: Tuned, mirrors: str, tmp_path: Path
) -> None:
    check(adapter.export("lora", form="adapter")["result"], adapter.folder("lora"))
    folder = adapter.folder("lora-merged")
    check(adapter.export("lora-merged")["result"], folder)
    names = set(read_manifest(folder))
    assert not {"adapter_config.json", "adapter_model.safetensors"} & names
    whole = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    own = load(Path(mirrors.split(":", maxsplit=1)[0]) / "models" / TINY, adapter.folder("lora"))
    assert torch.equal(logits(whole, folder), logits(own, folder))
    record = json.loads((folder / "surgery.json").read_text())
    assert record["format"] == "layer-surgeon/full/1"
    assert set(record["trained"]) <= set(whole.state_dict())


def test_the_same_content_is_written_once_and_goes_with_its_last_export(delta: Tuned) -> None:
    client, folder = delta.running.client, delta.folder("once")
    first = delta.export("once")
    written = (folder / "manifest.json").stat()
    second = delta.export("once")
    assert second["result"]["created"] is False
    assert second["result"]["digest"] == first["result"]["digest"]
    assert (folder / "manifest.json").stat() == written
    client.delete(first["id"])
    assert is_intact(folder)
    assert client.job(second["id"])["usage"]["stored_bytes"] >= second["result"]["bytes"]
    client.delete(second["id"])
    assert not folder.exists()


def test_a_name_with_other_content_is_taken(delta: Tuned) -> None:
    holder = delta.export("taken")
    before = (delta.folder("taken") / "manifest.json").read_bytes()
    body = {"to": "folder", "target": "taken", "form": "delta"}
    job = delta.running.client.submit(f"checkpoints/{delta.checkpoint}/exports", body)
    job = delta.running.finished(job)
    assert (job["status"], job["error"]["code"]) == ("failed", "export_refused")
    assert holder["id"] in job["error"]["detail"]
    assert (delta.folder("taken") / "manifest.json").read_bytes() == before
    delta.running.client.delete(holder["id"])
    again = delta.running.finished(delta.running.client.retry(job["id"]))
    assert (again["status"], again["result"]["form"]) == ("succeeded", "delta")


def test_the_client_and_the_command_export(delta: Tuned) -> None:
    handle = delta.running.client.export(delta.checkpoint, "folder", "by-client", form="delta")
    assert handle.wait().result.location == "exports/pr_default/by-client"
    runner = CliRunner(env={"COLUMNS": "100"})
    url = ["--url", delta.running.client.url]
    to = ["--to", "folder:by-command"]
    shown = runner.invoke(app, ["export", delta.job["id"], *to, *url])
    assert shown.exit_code == 0, shown.output
    assert "exports/pr_default/by-command (full): written" in shown.stdout
    assert "model.safetensors" in shown.stdout
    again = runner.invoke(app, ["export", delta.checkpoint, *to, *url, "--json"])
    assert json.loads(again.stdout)["result"]["created"] is False
    wrong = runner.invoke(app, ["export", delta.checkpoint, "--to", "moon:x", *url])
    assert wrong.exit_code == 2
    with pytest.raises(ApiError, match="paths"):
        delta.running.client.export(delta.checkpoint, "folder", "../x")
