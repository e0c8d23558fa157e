"""Checkpoints published on a Hub by a running service, with huggingface_hub itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from tests.support.models.mirror import TINY
from tests.support.outside.hub_repositories import TOKEN, WritableHub, writable
from tests.support.service.problems import ROWS, problem, says
from tests.support.service.services import Running, embedded_with, wait_until
from tests.support.service.stored import place_in

Json = dict[str, Any]
TRAINING = {"epochs": 1, "batch_size": 4, "max_length": 16, "learning_rate": 1e-2}
LORA = {"type": "lora", "rank": 2}


@dataclass(frozen=True)
class Place:
    """A service whose workers may write to a Hub, and its checkpoints by their form."""

    running: Running
    hub: WritableHub
    checkpoints: dict[str, str]

    def submit(self, target: str, of: str = "delta", **options: Any) -> Json:
        path = f"checkpoints/{self.checkpoints[of]}/exports"
        return self.running.client.submit(path, {"to": "hub", "target": target, **options})

    def export(self, target: str, of: str = "delta", **options: Any) -> Json:
        job = self.running.finished(self.submit(target, of, **options))
        assert job["status"] == "succeeded", (job["error"], self.running.logs()[-3000:])
        return job

    def failed(self, target: str, **options: Any) -> Json:
        job = self.running.finished(self.submit(target, **options))
        assert job["status"] == "failed", job
        error: Json = job["error"]
        return error


@pytest.fixture(scope="module")
def place(few_mirrors: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("hub")
    rows = folder / "t.csv"
    rows.write_text(ROWS)
    with writable() as hub:
        told = {
            "SURGEON_OFFLINE": "false", "HF_ENDPOINT": hub.address, "SURGEON_HUB_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        with embedded_with(folder / "data", few_mirrors, told) as running:
            dataset = running.client.upload(rows).id
            body = {"model": TINY, "dataset": dataset, "training": TRAINING}
            layers = {"selection": {"policy": "last_k", "k": 1}}
            made = {"delta": running.run("finetunes", {**body, **layers})}
            made["adapter"] = running.run("finetunes", {**body, "adapter": LORA})
            best = {form: job["result"]["best_checkpoint"] for form, job in made.items()}
            yield Place(running, hub, best)


@pytest.fixture(autouse=True)
def well(request: pytest.FixtureRequest) -> Iterator[None]:
    """The Hub behaves again after every test."""
    yield
    if "place" in request.fixturenames:
        hub = request.getfixturevalue("place").hub
        hub.failing.clear()
        if hub.held is not None:
            hub.held.set()
            hub.held = None


@pytest.mark.slow
def test_a_model_is_one_commit_in_a_private_repository(place: Place, tmp_path: Path) -> None:
    job = place.export("me/reader", message="For the demo")
    result, repository = job["result"], place.hub.repositories["me/reader"]
    branch = repository.branches["main"]
    assert repository.private
    assert [each["summary"] for each in branch.commits] == ["For the demo"]
    assert result["version"] == branch.sha
    assert result["location"] == f"{place.hub.address}/me/reader/tree/{branch.sha}"
    listed = {file["name"]: file["bytes"] for file in result["files"]}
    held = {name: len(content) for name, content in branch.files.items()}
    assert held.pop("manifest.json")
    assert held == listed
    for name, content in branch.files.items():
        (tmp_path / name).write_bytes(content)
    AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert branch.files["README.md"].startswith(b"---\n")


def test_the_same_content_makes_no_commit(place: Place) -> None:
    first, again = place.export("me/once"), place.export("me/once")
    assert (first["result"]["created"], again["result"]["created"]) == (True, False)
    assert again["result"]["version"] == first["result"]["version"]
    assert len(place.hub.branch("me/once").commits) == 1


def test_weights_of_another_form_are_replaced_and_other_files_stay(place: Place) -> None:
    place.export("me/forms", "adapter", form="adapter")
    branch = place.hub.branch("me/forms")
    branch.files["NOTES.txt"] = b"by hand"
    assert "adapter_model.safetensors" in branch.files
    place.export("me/forms", "adapter")
    assert {"model.safetensors", "NOTES.txt"} <= set(branch.files)
    assert not {"adapter_model.safetensors", "adapter_config.json"} & set(branch.files)


def test_a_revision_is_a_branch_of_its_own(place: Place) -> None:
    place.export("me/branches")
    place.export("me/branches", form="delta", revision="v2/trial")
    assert "model.safetensors" in place.hub.branch("me/branches").files
    trial = place.hub.branch("me/branches", "v2/trial")
    assert "delta.safetensors" in trial.files
    assert "model.safetensors" not in trial.files


def test_nothing_becomes_public_unless_asked(place: Place) -> None:
    place.export("me/open", private=False)
    assert not place.hub.repositories["me/open"].private
    error = place.failed("me/open", form="delta")
    assert error["code"] == "export_refused"
    assert "public repository" in error["detail"]
    assert len(place.hub.branch("me/open").commits) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(403, "export_refused"), (500, "destination_unavailable")]
)
def test_a_hub_that_refuses_or_fails_has_no_commit(place: Place, status: int, code: str) -> None:
    name = f"me/fails-{status}"
    place.hub.failing["/commit/"] = status
    error = place.failed(name)
    assert (error["code"], error["retriable"]) == (code, status == 500)
    assert place.hub.branch(name).files == {}
    place.hub.failing.clear()
    assert place.export(name)["result"]["created"] is True


def test_a_worker_that_dies_at_the_commit_publishes_once(place: Place) -> None:
    """The commit is taken, and nobody hears of it: the next attempt finds it there."""
    place.hub.held = held = threading.Event()
    job = place.submit("me/killed")
    asked = "POST /api/models/me/killed/commit/main"
    wait_until(lambda: asked in place.hub.requests, 120, place.running.logs)
    [publisher] = [p for p in place.running._descendants() if "worker.publisher" in _line(p)]
    publisher.kill()
    held.set()
    job = place.running.finished(job)
    assert (job["status"], job["result"]["created"]) == ("succeeded", False)
    assert job["attempt"] == 2
    assert len(place.hub.branch("me/killed").commits) == 1


def _line(process: Any) -> str:
    return " ".join(process.cmdline())


def test_a_cancelled_export_commits_nothing(place: Place) -> None:
    place.hub.failing["/preupload/"] = 503  # which the client tries again for a while
    job = place.submit("me/cancelled")
    asked = "POST /api/models/me/cancelled/preupload/main"
    wait_until(lambda: asked in place.hub.requests, 120, place.running.logs)
    place.running.client.cancel(job["id"])
    assert place.running.finished(job)["status"] == "cancelled"
    assert place.hub.branch("me/cancelled").files == {}


def test_the_token_is_nowhere_to_be_seen(place: Place) -> None:
    job = place.export("me/secret")
    client = place.running.client
    told = [
        client.job(job["id"]),
        client.call("GET", f"/v1/jobs/{job['id']}/events"),
        client.call("GET", f"/v1/jobs/{job['id']}/logs"),
        client.call("GET", "/v1/workers"),
    ]
    assert TOKEN not in json.dumps(told) + place.running.logs()
    assert "hub" in told[-1]["data"][0]["exports"]


@pytest.mark.parametrize(
    "name",
    ["reader", "me/", "/reader", "me/reader/more", "../reader", "me/re--ader", "me/reader.git",
     "https://huggingface.co/me/reader", "me/reader@main", "me/..", "datasets/me/reader"],
)  # fmt: skip
def test_only_a_repository_of_an_owner_is_named(offered: Any, name: str) -> None:
    says(problem(posted(offered, target=name), 422, "invalid"), "/target")


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An API without workers and without a token."""
    with place_in(tmp_path_factory.mktemp("offered")) as opened:
        yield opened


def posted(offered: Any, **body: Any) -> Any:
    whole = {"to": "hub", "target": "me/reader", **body}
    return offered.api.post(f"{offered.path}/exports", json=whole)


def test_what_the_hub_cannot_take_is_refused_at_once(offered: Any) -> None:
    says(problem(posted(offered), 422, "not_runnable"), "/to", "SURGEON_HUB_TOKEN")
    for field, wrong in {
        "revision": "../main", "message": "two\nlines", "token": "hf_mine",
    }.items():  # fmt: skip
        says(problem(posted(offered, **{field: wrong}), 422, "invalid"), f"/{field}")
    for field, value in {"revision": "v2", "private": False, "message": "hello"}.items():
        answer = posted(offered, to="folder", target="reader", **{field: value})
        says(problem(answer, 422, "invalid"), f"/{field}", "hub")
