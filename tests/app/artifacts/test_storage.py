"""The storage of artifacts, with one behaviour in a local folder and in an S3-compatible store."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from app.artifacts.fetched import FetchedFolders
from app.artifacts.storage import Storage
from surgery.io.folders import MANIFEST, complete_folder, is_intact
from tests.support.outside.object_store import (
    BUCKET,
    PREFIX,
    unfinished_uploads,
)

KEY = "jobs/ft_1/1/checkpoint-90"
FILES = {"model.safetensors": b"weights" * 1000, "config.json": b"{}"}
S3_PART = 50 << 20  # s3fs sends a larger file in parts


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    return str(tmp_path / "artifacts")


@pytest.fixture
def storage(url: str, tmp_path: Path) -> Storage:
    return Storage(url, FetchedFolders(tmp_path / "cache"))


def made(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    with complete_folder(folder) as building:
        for name, content in files.items():
            (building / name).write_bytes(content)
    return folder


def content(storage: Storage, key: str) -> dict[str, bytes]:
    return {name: b"".join(storage.chunks(f"{key}/{name}")) for name in storage.names(key)}


def test_a_folder_that_is_put_can_be_read_fetched_and_deleted(
    storage: Storage, tmp_path: Path
) -> None:
    storage.put_folder(made(tmp_path / "new"), KEY)
    assert not (tmp_path / "new").exists()
    assert content(storage, KEY) == FILES
    storage.check(KEY, FILES)
    held = storage.fetch_folder(KEY)
    assert held is not None
    assert is_intact(held.path)
    held.release()
    storage.delete(KEY)
    assert storage.names(KEY) == []
    with pytest.raises(FileNotFoundError):
        storage.read_file(f"{KEY}/config.json")


def test_parts_of_a_file(storage: Storage, tmp_path: Path) -> None:
    storage.put_folder(made(tmp_path / "new", {"data": bytes(range(256))}), KEY)
    path = f"{KEY}/data"
    assert b"".join(storage.chunks(path, 10, 20)) == bytes(range(10, 20))
    assert b"".join(storage.chunks(path, 250)) == bytes(range(250, 256))
    assert b"".join(storage.chunks(path, 5, 5)) == b""


def test_what_is_missing_is_said_to_be(storage: Storage, tmp_path: Path) -> None:
    storage.put_folder(made(tmp_path / "new"), KEY)
    assert storage.names("jobs/ft_1/1/other") == []
    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        storage.check(KEY, ["weights.bin"])
    with pytest.raises(FileNotFoundError):
        list(storage.chunks(f"{KEY}/weights.bin"))
    storage.delete("jobs/ft_1/1/other")


def test_a_folder_that_grows_replaces_what_it_was(storage: Storage, tmp_path: Path) -> None:
    storage.put_folder(made(tmp_path / "new", {"events": b"one"}), KEY, replace=True)
    grown = {"events": b"one, two", "more": b"three"}
    storage.put_folder(made(tmp_path / "new", grown), KEY, replace=True)
    assert content(storage, KEY) == grown


def test_a_folder_may_be_put_again_by_whoever_lost_the_answer(
    storage: Storage, tmp_path: Path
) -> None:
    for _ in range(2):
        storage.put_folder(made(tmp_path / "new"), KEY)
    assert content(storage, KEY) == FILES


def test_another_folder_does_not_replace_a_complete_one(storage: Storage, tmp_path: Path) -> None:
    storage.put_folder(made(tmp_path / "new"), KEY)
    other = made(tmp_path / "other", {"model.safetensors": b"other"})
    with pytest.raises(FileExistsError, match="holds another folder"):
        storage.put_folder(other, KEY)
    assert content(storage, KEY) == FILES


def test_of_two_that_write_the_same_key_the_first_completes_it(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has seen no manifest yet when the first writes its own."""
    other = made(tmp_path / "other", {"other": b"other"})
    write = storage._write_folder

    def overtaken(folder: Path, key: str, manifest: bytes, *, replace: bool) -> None:
        monkeypatch.undo()
        storage.put_folder(made(tmp_path / "new"), KEY)
        if not storage.local:  # the lock of a lease lets no two attempts write a local key
            write(folder, key, manifest, replace=replace)

    monkeypatch.setattr(storage, "_write_folder", overtaken)
    with pytest.raises(FileExistsError):
        storage.put_folder(other, KEY)
    assert content(storage, KEY) == FILES


def test_an_interrupted_folder_is_no_folder_and_is_found_as_garbage(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(tmp_path / "new")
    if storage.local:  # it is renamed whole; a copy from another disk may have been cut short
        left = Path(storage._path(KEY))
        left.mkdir(parents=True)
        (left / "config.json").write_bytes(b"{")
    else:
        broken: list[str] = []

        def put_file(source: str, target: str, **_: Any) -> None:
            if broken:
                raise OSError("the connection was lost")
            broken.append(target)
            storage._files.pipe_file(target, Path(source).read_bytes())

        monkeypatch.setattr(storage._files, "put_file", put_file)
        with pytest.raises(OSError, match="lost"):
            storage.put_folder(whole, KEY)
        monkeypatch.undo()
    assert whole.is_dir(), "what was not stored stays where it is"
    assert storage.names(KEY) == []
    assert storage.stale_folders("jobs", 3, -60) == [KEY]
    storage.put_folder(whole, KEY)
    assert content(storage, KEY) == FILES


def test_small_files_are_replaced(storage: Storage) -> None:
    for text in (b"one", b"two"):
        storage.put_file("logs/ft_1/1/segment-0", text)
        assert storage.read_file("logs/ft_1/1/segment-0") == text


def test_another_process_sees_at_once_what_was_written(
    url: str, storage: Storage, tmp_path: Path
) -> None:
    """Nothing of what is stored is remembered by a process."""
    other = Storage(url, FetchedFolders(tmp_path / "other"))
    assert other.names(KEY) == []
    storage.put_folder(made(tmp_path / "new"), KEY)
    other.check(KEY, FILES)
    assert set(other.names(KEY)) == set(FILES)
    storage.delete(KEY)
    assert other.names(KEY) == []


def test_folders_are_stale_by_their_newest_file(storage: Storage, tmp_path: Path) -> None:
    storage.put_folder(made(tmp_path / "new"), KEY)
    storage.put_file("jobs/ft_1/1/log/segment-0", b"x")
    assert storage.stale_folders("jobs", 3, 3600) == []
    both = [KEY, "jobs/ft_1/1/log"]
    assert storage.stale_folders("jobs", 3, -60) == both
    assert storage.stale_folders("jobs", 1, -60) == ["jobs/ft_1"]
    assert storage.stale_folders("datasets", 1, -60) == []


def test_old_empty_folders_go(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "artifacts"), FetchedFolders(tmp_path / "cache"))
    for key in ("jobs/ft_1/1/a", "jobs/ft_2/1/a"):
        storage.put_folder(made(tmp_path / "new"), key)
        storage.delete(key)
    storage.put_folder(made(tmp_path / "new"), "jobs/ft_2/2/a")
    storage.remove_unfinished(3600)
    left = {str(path.relative_to(tmp_path / "artifacts")) for path in folders(tmp_path)}
    assert {"jobs/ft_1/1", "jobs/ft_2/1"} <= left
    for path in folders(tmp_path):
        os.utime(path, (time.time() - 7200,) * 2)
    storage.remove_unfinished(3600)
    left = {str(path.relative_to(tmp_path / "artifacts")) for path in folders(tmp_path)}
    assert "jobs/ft_2/1" not in left
    assert {"jobs/ft_2", "jobs/ft_2/2", "jobs/ft_2/2/a"} <= left


def folders(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_dir()]


def test_uploads_in_parts_that_nobody_finished_are_given_up(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(s3_url, FetchedFolders(tmp_path / "cache"))
    for key in (f"{PREFIX}/old/weights", f"{PREFIX}/new/weights", "of-somebody-else/file"):
        boto3.client("s3").create_multipart_upload(Bucket=BUCKET, Key=key)
    listed = storage._files.list_multipart_uploads

    def dated(bucket: str) -> list[Any]:  # moto says that all of them began in 2010
        now = datetime.now(UTC)
        return [upload | {"Initiated": now} if "new" in upload["Key"] else upload
                for upload in listed(bucket)]  # fmt: skip

    monkeypatch.setattr(storage._files, "list_multipart_uploads", dated)
    storage.remove_unfinished(3600)
    assert unfinished_uploads() == {f"{PREFIX}/new/weights", "of-somebody-else/file"}


def test_a_store_that_does_not_list_them_is_told_how_to_end_them(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(s3_url, FetchedFolders(tmp_path / "cache"))

    def refuse(bucket: str) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(storage._files, "list_multipart_uploads", refuse)
    storage.remove_unfinished(0)
    assert "lifecycle rule" in caplog.text


def test_what_was_being_built_goes_when_it_is_old(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "artifacts"), FetchedFolders(tmp_path / "cache"))
    storage.put_folder(made(tmp_path / "new"), KEY)
    half = tmp_path / "artifacts" / "exports" / "pr_default"
    for name, age in ((".building-old", 7200), (".building-new", 60)):
        (half / name).mkdir(parents=True)
        (half / name / "config.json").write_text("{")
        os.utime(half / name, (time.time() - age,) * 2)
    segment = tmp_path / "artifacts" / KEY / ".building-segment-0"
    segment.write_text("x")
    os.utime(segment, (time.time() - 7200,) * 2)
    storage.remove_unfinished(3600)
    assert {path.name for path in half.iterdir()} == {".building-new"}
    assert not segment.exists()
    assert content(storage, KEY) == FILES


@pytest.mark.slow
def test_a_file_of_several_parts(s3_url: str, tmp_path: Path) -> None:
    storage = Storage(s3_url, FetchedFolders(tmp_path / "cache"))
    large = os.urandom(1 << 20) * (S3_PART // (1 << 20) * 2 + 3)
    storage.put_folder(made(tmp_path / "new", {"model.safetensors": large}), KEY)
    client = boto3.client("s3")
    stored = client.head_object(Bucket=BUCKET, Key=f"surgeon/{KEY}/model.safetensors")
    assert "-" in stored["ETag"], "it was sent in parts"
    held = storage.fetch_folder(KEY)
    assert held is not None
    assert is_intact(held.path)
    held.release()


def test_the_manifest_is_the_last_that_is_written(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(s3_url, FetchedFolders(tmp_path / "cache"))
    written: list[str] = []
    for name in ("put_file", "pipe_file"):
        original = getattr(storage._files, name)

        def noted(first: str, second: Any, original: Any = original, **more: Any) -> Any:
            written.append(first.rpartition("/")[2])
            return original(first, second, **more)

        monkeypatch.setattr(storage._files, name, noted)
    storage.put_folder(made(tmp_path / "new"), KEY)
    assert written[-1] == MANIFEST
    assert json.loads(storage.read_file(f"{KEY}/{MANIFEST}"))["files"].keys() == FILES.keys()
