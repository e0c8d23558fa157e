"""Pin, delete and download a checkpoint over HTTP."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from safetensors.torch import load

from surgery import load as load_checkpoint
from surgery.io.folders import is_intact, read_manifest
from surgery.schemas.enums import Problem
from tests.support.models.checkpoints import write_checkpoint as write_base
from tests.support.service.stored import Place, place_in


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as place:
        yield place


def test_pin_and_let_go(place: Place) -> None:
    assert place.api.get(place.path).json()["pinned"] is False
    for _ in range(2):
        answer = place.api.post(f"{place.path}/pin")
        assert (answer.status_code, answer.json()["pinned"]) == (200, True)
    assert place.api.get(place.path).json()["pinned"] is True
    place.finish()
    refused = place.api.delete(place.path)
    assert refused.status_code == 409
    assert "/pin lets it go" in refused.json()["detail"]
    answer = place.api.delete(f"{place.path}/pin")
    assert (answer.status_code, answer.json()["pinned"]) == (200, False)
    assert place.api.post("/v1/checkpoints/ck_none/pin").status_code == 404


def test_deleting_frees_the_bytes(place: Place) -> None:
    refused = place.api.delete(place.path)
    assert refused.status_code == 409
    assert "cancel it or wait" in refused.json()["detail"]
    place.finish()
    assert list(place.artifacts.rglob("delta.safetensors"))
    assert place.api.delete(place.path).status_code == 204
    assert not list(place.artifacts.rglob("delta.safetensors"))
    for path in (place.path, f"{place.path}/files/delta.safetensors", f"{place.path}/archive"):
        assert place.api.get(path).status_code == 404
    assert place.api.delete(place.path).status_code == 404
    history = place.api.get(f"/v1/jobs/{place.kept.lease.job_id}/events").json()["data"]
    assert history[-1]["type"] == "checkpoint_deleted"


def rows(labels: tuple[str, str]) -> str:
    return "text,label\n" + "".join(f"words {i} of a row,{labels[i % 2]}\n" for i in range(20))


def submitted(
    place: Place, labels: tuple[str, str] = ("no", "yes"), **more: Any
) -> httpx2.Response:
    """A fine-tune of the same model that begins with the checkpoint."""
    files = {"train": ("t.csv", rows(labels).encode())}
    dataset = place.api.post("/v1/datasets", files=files).json()["id"]
    body = {
        "model": "tiny", "dataset": dataset, "continue_from": place.kept.id,
        "selection": {"policy": "layers", "layers": [0]}, **more,
    }  # fmt: skip
    return place.api.post("/v1/finetunes", json=body)


def test_a_job_that_continues_from_a_checkpoint_holds_it(place: Place) -> None:
    place.finish()
    job = submitted(place)
    assert job.status_code == 202, job.text
    begins = {"checkpoint": place.kept.id, "job": place.kept.lease.job_id, "step": 1}
    assert job.json()["resolved"]["continue_from"] == begins
    refused = place.api.delete(place.path)
    assert refused.status_code == 409
    assert job.json()["id"] in refused.json()["errors"][0]["detail"]
    place.api.post(f"/v1/jobs/{job.json()['id']}/cancel")
    assert place.api.delete(place.path).status_code == 204


def test_a_checkpoint_that_does_not_fit_is_refused_at_submit(place: Place, tmp_path: Path) -> None:
    write_base(tmp_path / "mirror" / "models" / "away", "bert", Problem.CLASSIFICATION)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"continue_from": "ck_none"}, "no checkpoint 'ck_none'"),
        ({"labels": ("bad", "good")}, "the checkpoint's labels are 'no', 'yes'"),
        ({"labels": ("0.5", "1.5")}, "the checkpoint's head is for classification"),
        ({"model": "away"}, "name that model, or leave continue_from out"),
    ]
    for change, said in cases:
        answer = submitted(place, **change)
        assert answer.status_code == 422, answer.text
        [fault] = answer.json()["errors"]
        assert fault["pointer"] == "/continue_from"
        assert said in fault["detail"]


def test_the_whole_weights_of_a_delta_are_one_file(place: Place, tmp_path: Path) -> None:
    path = f"{place.path}/files/model.safetensors?form=full"
    whole = place.api.get(path)
    assert whole.status_code == 200, whole.text
    assert int(whole.headers["content-length"]) == len(whole.content)
    state = load(whole.content)
    expected = place.loaded.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    size = len(whole.content)
    ranges = [("0-9", 0, 10), ("5000-20000", 5000, 20001), ("-7", size - 7, size), ("9-", 9, size)]
    for asked, start, end in ranges:
        part = place.api.get(path, headers={"Range": f"bytes={asked}"})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.content == whole.content[start:end]
    beyond = place.api.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    etag = whole.headers["etag"]
    assert place.api.get(path, headers={"If-None-Match": etag}).status_code == 304
    stale = place.api.get(path, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, size)
    assert place.api.get(f"{place.path}/files/model.safetensors").status_code == 404


@pytest.mark.parametrize("form", ["delta", "full"])
def test_an_archive_proves_itself(form: str, place: Place, tmp_path: Path) -> None:
    path = f"{place.path}/archive?form={form}"
    answer = place.api.get(path)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    assert is_intact(tmp_path / "out")
    listed = set(read_manifest(tmp_path / "out")) | {"manifest.json"}
    assert listed == {file.name for file in (tmp_path / "out").iterdir()}
    model = load_checkpoint(tmp_path / "mirror" / "models" / "tiny", tmp_path / "out")
    state = place.loaded.model.state_dict()
    assert all(torch.equal(state[name], own) for name, own in model.state_dict().items())
    again = place.api.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
