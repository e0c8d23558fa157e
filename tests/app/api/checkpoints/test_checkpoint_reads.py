"""What a reader of a checkpoint's files is told: of a form there is none of, of files that went."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.api import deps
from app.db.tables import Checkpoint
from surgery.checkpoints.merge import DELTA, RECORD
from tests.support.service.problems import problem, says
from tests.support.service.stored import Place, place_in

CARD = "README.md"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as place:
        yield place


def test_each_file_of_the_full_form_is_that_of_its_archive(place: Place, tmp_path: Path) -> None:
    content = place.api.get(f"{place.path}/archive?form=full").content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "full", filter="data")
    files = {path.name: path.read_bytes() for path in (tmp_path / "full").iterdir()}
    del files["manifest.json"]
    assert {CARD, RECORD, "config.json", "model.safetensors"} <= files.keys()
    for name, expected in files.items():
        path = f"{place.path}/files/{name}?form=full"
        answer = place.api.get(path)
        assert answer.content == expected, name
        tag = {"If-None-Match": answer.headers["etag"]}
        assert place.api.get(path, headers=tag).status_code == 304
    kept = place.api.get(f"{place.path}/files/{RECORD}").json()
    whole = place.api.get(f"{place.path}/files/{RECORD}?form=full").json()
    assert (kept["format"], whole["format"]) == ("layer-surgeon/delta/1", "layer-surgeon/full/1")


def test_what_the_full_form_has_not_is_refused(place: Place) -> None:
    for name in (DELTA, "none.bin", "manifest.json"):
        told = problem(place.api.get(f"{place.path}/files/{name}?form=full"), 404, "not_found")[
            "detail"
        ]
        assert f"full form of checkpoint {place.kept.id} has no file {name!r}" in told
        assert f"model.safetensors, {RECORD}" in told
    with place.service.database.write() as session:
        session.execute(update(Checkpoint).values(form="adapter"))
    for name in ("config.json", "model.safetensors"):
        told = problem(place.api.get(f"{place.path}/files/{name}?form=full"), 409, "conflict")[
            "detail"
        ]
        assert "is a LoRA adapter" in told


def test_a_file_kept_in_full_form_is_served_as_it_is(tmp_path: Path) -> None:
    with place_in(tmp_path, "full") as place:
        for name in (CARD, "model.safetensors"):
            kept = place.api.get(f"{place.path}/files/{name}")
            whole = place.api.get(f"{place.path}/files/{name}?form=full")
            assert (whole.status_code, whole.content) == (200, kept.content)


READS = (
    f"files/{DELTA}", "files/config.json", "files/model.safetensors?form=full",
    f"files/{CARD}?form=full", "archive", "archive?form=full",
)  # fmt: skip


@pytest.mark.parametrize("read", READS)
def test_a_checkpoint_deleted_under_its_reader_is_not_found(
    read: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was read before the checkpoint was deleted, the files after."""
    row = as_it_was(place)
    place.finish()
    assert place.api.delete(place.path).status_code == 204
    with_row(row, monkeypatch)
    told = problem(place.api.get(f"{place.path}/{read}"), 404, "not_found")["detail"]
    assert "was deleted meanwhile" in told


@pytest.mark.parametrize("read", READS)
def test_a_checkpoint_replaced_under_its_reader_is_a_conflict(
    read: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = as_it_was(place)
    with place.service.database.write() as session:
        session.execute(update(Checkpoint).values(path=f"{row.path}-again"))
    place.service.storage.delete(row.path)
    with_row(row, monkeypatch)
    assert "ask again" in problem(place.api.get(f"{place.path}/{read}"), 409, "conflict")["detail"]


@pytest.mark.parametrize("read", READS)
def test_files_that_are_lost_are_said_to_be_damaged(read: str, place: Place) -> None:
    place.service.storage.delete(as_it_was(place).path)
    answer = place.api.get(f"{place.path}/{read}")
    assert "are damaged" in problem(answer, 422, "unsafe_weights")["detail"]


def as_it_was(place: Place) -> Checkpoint:
    with place.service.database.read() as session:
        row = session.get(Checkpoint, place.kept.id)
    assert isinstance(row, Checkpoint)
    return row


def with_row(row: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests see the row as it was."""
    monkeypatch.setattr(deps, "checkpoint_of", lambda *_: row)


def before_reading(place: Place, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Do something else once, before the storage is read the next time."""
    storage, waiting = place.service.storage, [act]
    plain = storage.chunks

    def chunks(key: str, *part: int) -> Iterator[bytes]:
        if waiting:
            waiting.pop()()
        return plain(key, *part)  # type: ignore[no-any-return]

    monkeypatch.setattr(storage, "chunks", chunks)


def test_continuing_from_a_checkpoint_that_goes_meanwhile_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.finish()
    rows = "text,label\n" + "".join(f"row {i},{'yes' if i % 2 else 'no'}\n" for i in range(20))
    files = {"train": ("t.csv", rows.encode())}
    body = {
        "model": "tiny", "dataset": place.api.post("/v1/datasets", files=files).json()["id"],
        "continue_from": place.kept.id, "selection": {"policy": "layers", "layers": [0]},
    }  # fmt: skip
    before_reading(place, monkeypatch, lambda: place.api.delete(place.path))
    found = problem(place.api.post("/v1/finetunes", json=body), 422, "invalid")
    says(found, "/continue_from", "was deleted meanwhile")


def put_log(place: Place, folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / name).write_bytes(name.encode())
    manifest = {"files": {name: {"bytes": len(name), "sha256": ""}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    place.service.storage.put_folder(folder, f"logs/{place.kept.lease.job_id}/1", replace=True)


def test_a_log_that_is_replaced_while_it_is_read_is_read_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_log(place, tmp_path / "first", "events.1")
    before_reading(place, monkeypatch, lambda: put_log(place, tmp_path / "second", "events.2"))
    job = place.kept.lease.job_id
    answer = place.api.get(f"/v1/jobs/{job}/tensorboard")
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == [f"{job}/events.2"]


def test_a_log_that_is_away_for_a_moment_is_waited_for(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the removal of the old folder and the arrival of the new one."""
    storage, job = place.service.storage, place.kept.lease.job_id
    plain, waiting = storage.names, [lambda: put_log(place, tmp_path / "log", "events.1")]

    def names(key: str) -> list[str]:
        found = plain(key)
        if waiting:
            waiting.pop()()
        return found

    monkeypatch.setattr(storage, "names", names)
    answer = place.api.get(f"/v1/jobs/{job}/tensorboard")
    assert answer.status_code == 200, answer.text


def test_a_record_that_is_no_json_is_said_to_be_damaged(place: Place) -> None:
    (place.artifacts / as_it_was(place).path / RECORD).write_text("{")
    answer = place.api.get(f"{place.path}/files/{CARD}?form=full")
    assert "is damaged" in problem(answer, 422, "unsafe_weights")["detail"]


def test_a_log_that_lacks_a_file_is_a_conflict(place: Place, tmp_path: Path) -> None:
    put_log(place, tmp_path / "log", "events.1")
    job = place.kept.lease.job_id
    (place.artifacts / "logs" / job / "1" / "events.1").unlink()
    answer = place.api.get(f"/v1/jobs/{job}/tensorboard")
    assert "ask again" in problem(answer, 409, "conflict")["detail"]
