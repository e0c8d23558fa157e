"""Folders fetched from an object store: whole, within their budget, and there while in use."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from app.api.downloads import full_weights
from app.artifacts.fetched import FetchedFolders
from app.artifacts.storage import Storage
from app.db.tables import Checkpoint
from surgery.io.folders import complete_folder, is_intact
from tests.support.service.stored import place_in

BLOCK = 4096  # bytes a file takes on the disk at least
ENTRY = 5 * BLOCK  # of four blocks of content and a manifest


@pytest.fixture
def url() -> Iterator[str]:
    yield "memory://artifacts"
    fsspec.filesystem("memory").rm("/artifacts", recursive=True)


def write(folder: Path, content: bytes = b"x") -> Path:
    with complete_folder(folder) as building:
        (building / "data").write_bytes(content * 4 * BLOCK)
    return folder


def store(tmp_path: Path, url: str, limit: int, *keys: str) -> tuple[Storage, Path]:
    """An object store with a folder a key; what it fetches lies in the path."""
    root = tmp_path / "cache"
    storage = Storage(url, FetchedFolders(root, limit))
    for key in keys:
        storage.put_folder(write(tmp_path / "new"), key)
    return storage, root


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def fetch(storage: Storage, key: str) -> Path:
    """Fetched, and let go."""
    held = storage.fetch_folder(key)
    assert held is not None
    assert is_intact(held.path)
    held.release()
    return held.path


def test_the_longest_unused_make_way(tmp_path: Path, url: str) -> None:
    storage, root = store(tmp_path, url, 2 * ENTRY, "jobs/a/1", "jobs/b/1", "jobs/c/1")
    first, second = fetch(storage, "jobs/a/1"), fetch(storage, "jobs/b/1")
    for folder, age in ((first, 200), (second, 100)):
        os.utime(folder, (time.time() - age,) * 2)
    assert fetch(storage, "jobs/a/1") == first  # a use
    third = fetch(storage, "jobs/c/1")
    assert names(root) == sorted([first.name, third.name])
    storage.sweep_fetched()
    assert names(root) == sorted([first.name, third.name])


def test_what_is_in_use_stays_whatever_room_it_takes(tmp_path: Path, url: str) -> None:
    storage, root = store(tmp_path, url, 0, "a", "b")
    first, second = storage.fetch_folder("a"), storage.fetch_folder("b")
    again = storage.fetch_folder("a")
    assert first
    assert second
    assert again
    storage.sweep_fetched()
    assert names(root) == ["a", "b"]
    first.release()
    second.release()
    storage.sweep_fetched()
    assert names(root) == ["a"]  # held once more
    again.release()
    storage.sweep_fetched()
    assert names(root) == []


HOLD = """
import sys
from pathlib import Path
from app.artifacts.fetched import FetchedFolders
held = FetchedFolders(Path(sys.argv[1])).hold("a")
print(held is not None, flush=True)
sys.stdin.read()
"""


def test_another_process_holds_what_it_uses_until_it_is_gone(tmp_path: Path, url: str) -> None:
    storage, root = store(tmp_path, url, 0, "a")
    held = storage.fetch_folder("a")
    assert held is not None
    command = [sys.executable, "-c", HOLD, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        held.release()
        storage.sweep_fetched()
        assert names(root) == ["a"]
        other.kill()
    storage.sweep_fetched()
    assert names(root) == []


def test_of_two_that_fetch_at_once_the_first_to_finish_wins(tmp_path: Path) -> None:
    """Both write at the same time; neither meets half of the other's."""
    folders, both = FetchedFolders(tmp_path), threading.Barrier(2, timeout=30)
    found: dict[str, str] = {}

    def run(name: str) -> None:
        def download(folder: Path) -> None:
            both.wait()
            content = write(folder / "whole", name.encode())
            for file in content.iterdir():
                both.wait()
                file.rename(folder / file.name)
            content.rmdir()

        held = folders.add("key", 0, download)
        assert held is not None
        assert is_intact(held.path)
        found[name] = (held.path / "data").read_text()[:1]
        held.release()

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == {"a", "b"}
    assert len(set(found.values())) == 1
    assert names(tmp_path) == ["key"]


def test_a_damaged_folder_is_fetched_again(tmp_path: Path, url: str) -> None:
    storage, root = store(tmp_path, url, 10 * ENTRY, "a")
    (fetch(storage, "a") / "data").write_bytes(b"torn")
    fetch(storage, "a")
    assert names(root) == ["a"]


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, url: str) -> None:
    storage, root = store(tmp_path, url, 10 * ENTRY, "torn", "gone")
    files = fsspec.filesystem("memory")
    files.pipe_file("/artifacts/torn/data", b"torn")
    assert storage.fetch_folder("torn") is None
    files.rm("/artifacts/gone/data")
    for key in ("gone", "never"):
        with pytest.raises(FileNotFoundError):
            storage.fetch_folder(key)
    files.pipe_file("/artifacts/torn/manifest.json", json.dumps({"files": [1]}).encode())
    assert storage.fetch_folder("torn") is None
    assert names(root) == []


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "..", "a/b", ""])
def test_a_manifest_that_names_a_path_writes_nothing(tmp_path: Path, url: str, name: str) -> None:
    storage, root = store(tmp_path, url, 10 * ENTRY, "a")
    manifest = {"files": {name: {"bytes": 1, "sha256": ""}}}
    fsspec.filesystem("memory").pipe_file(
        "/artifacts/a/manifest.json", json.dumps(manifest).encode()
    )
    before = set(tmp_path.rglob("*"))
    assert storage.fetch_folder("a") is None
    assert set(tmp_path.rglob("*")) == before
    assert not root.exists() or names(root) == []


def test_for_what_is_larger_than_all_may_be_nothing_makes_way(tmp_path: Path, url: str) -> None:
    storage, root = store(tmp_path, url, 2 * ENTRY, "small", "large")
    fetch(storage, "small")
    files = fsspec.filesystem("memory")
    content = b"x" * 3 * ENTRY
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    files.pipe_file("/artifacts/large/data", content)
    files.pipe_file(
        "/artifacts/large/manifest.json", json.dumps({"files": {"data": entry}}).encode()
    )
    fetch(storage, "large")
    assert names(root) == ["large", "small"]


def test_what_a_crash_left_half_fetched_goes_after_a_day(tmp_path: Path, url: str) -> None:
    storage, root = store(tmp_path, url, 10 * ENTRY, "a")
    for name, hours in {".fetching-old": 25, ".fetching-new": 23}.items():
        folder = write(root / name)
        os.utime(folder, (time.time() - hours * 3600,) * 2)
    storage.sweep_fetched()
    assert names(root) == [".fetching-new"]


def test_the_full_form_is_read_to_its_end(tmp_path: Path, url: str) -> None:
    with place_in(tmp_path, artifacts_url=url, artifact_cache_bytes=0) as place:
        service, root = place.service, tmp_path / "data" / "cache" / "artifacts"
        with service.database.read() as session:
            row = session.get(Checkpoint, place.kept.id)
        weights = full_weights(service, row)
        service.storage.sweep_fetched()
        assert len(names(root)) == 1
        assert sum(map(len, weights.chunks())) == weights.size
        del weights
        gc.collect()
        service.storage.sweep_fetched()
        assert names(root) == []
        assert place.api.get(f"{place.path}/archive?form=full").status_code == 200
