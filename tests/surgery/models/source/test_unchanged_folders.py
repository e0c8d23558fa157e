"""A model's folder is read once, and again as soon as anything in it has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgery.errors import UnsafeWeights
from surgery.models.source import resolve
from surgery.models.source.resolve import inspect_model, local_model
from tests.support.models.checkpoints import offline, write_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole model, whose files count as old enough to tell any change by their times."""
    monkeypatch.setattr(resolve, "SETTLED_NANOSECONDS", 0)
    return write_checkpoint(tmp_path / "m", "bert")


def replace(path: Path, content: str) -> None:
    """Put another file in the place of this one."""
    new = path.with_name("new")
    new.write_text(content)
    new.replace(path)


def test_an_unchanged_folder_is_read_once(folder: Path) -> None:
    first = local_model(folder)
    assert local_model(folder) is first
    assert inspect_model(first, offline(folder)) is inspect_model(first, offline(folder))


def test_a_folder_that_has_just_changed_is_not_relied_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "SETTLED_NANOSECONDS", 3600 * 10**9)
    assert local_model(folder) is not local_model(folder)


def test_a_changed_file_is_read(folder: Path) -> None:
    before = local_model(folder)
    config = json.loads((folder / "config.json").read_text())
    replace(folder / "config.json", json.dumps({**config, "architectures": ["Other"]}))
    after = local_model(folder)
    assert after.fingerprint != before.fingerprint
    assert inspect_model(after, offline(folder)).architecture == "Other"


def test_a_recorded_commit_is_noticed(folder: Path) -> None:
    assert local_model(folder).revision is None
    records = folder / ".cache" / "huggingface" / "download"
    records.mkdir(parents=True)
    for path in (folder / "config.json", *folder.glob("*.safetensors")):
        at = path.stat().st_mtime + 1
        (records / f"{path.name}.metadata").write_text(f"{COMMIT}\netag\n{at}\n")
    assert local_model(folder).revision == COMMIT


def test_a_file_that_is_gone_is_missed(folder: Path) -> None:
    local_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeWeights):
        local_model(folder)
