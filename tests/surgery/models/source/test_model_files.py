"""A model's folder as a stranger may fill or change it: sizes, names, files that come and go."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from surgery.errors import ModelNotFound, ModelUnsupported, SurgeryError, UnsafeFiles
from surgery.io.sources import Sources
from surgery.models.source import folder as model_files
from surgery.models.source.copy import checked_copy
from surgery.models.source.folder import digest_of, read_folder
from surgery.models.source.resolve import inspect_model, local_model, resolve_model
from tests.support.models.checkpoints import offline, write_checkpoint
from tests.support.models.mirror import TINY

INDEX = "model.safetensors.index.json"
HALF = "\ud800"  # of a character, which UTF-8 cannot write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model, to change."""
    return write_checkpoint(tmp_path / "m", "bert")


def said_of(folder: Path) -> str:
    """What is told of a folder that is refused; it can be sent as an answer."""
    with pytest.raises(SurgeryError) as refused:
        inspect_model(local_model(folder), offline(folder))
    told = json.dumps(refused.value.as_problem(), ensure_ascii=False)
    assert told.encode()
    return told


def test_all_parts_together_have_a_limit(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for part in (1, 2):
        with (folder / f"model-0000{part}-of-00002.safetensors").open("wb") as file:
            file.truncate(model_files.MAX_WEIGHT_BYTES // 2 + 1)
    (folder / INDEX).write_text("{}")
    with pytest.raises(UnsafeFiles, match=r"8,000,000,002 bytes; at most 8,000,000,000 are read"):
        read_folder(folder, "m")


def test_a_content_that_keeps_its_size_and_time_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("abc")
    before, first = path.stat(), digest_of(path, 100)
    path.write_text("xyz")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of(path, 100) != first


def test_a_file_that_goes_while_the_folder_is_read_is_an_error_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [*(path.name for path in folder.iterdir()), "merges.txt"]
    monkeypatch.setattr(model_files, "_names", lambda _: listed)
    with pytest.raises(UnsafeFiles, match="No such file"):
        read_folder(folder, "m")
    shutil.rmtree(folder)
    monkeypatch.undo()
    with pytest.raises(UnsafeFiles, match="cannot be listed"):
        read_folder(folder, "m")


def test_a_copy_of_files_that_changed_meanwhile_is_refused(folder: Path) -> None:
    source = local_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    with pytest.raises(ModelNotFound, match="changed while they were read"):
        checked_copy(source, offline(folder))
    assert not list((offline(folder).cache / "models").iterdir())


def test_a_copy_stays_what_it_was_when_its_origin_changes(folder: Path) -> None:
    source = local_model(folder)
    copy = checked_copy(source, offline(folder))
    weights = (copy / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as file:  # the same file, written over
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    assert (copy / "model.safetensors").read_bytes() == weights


def test_a_copy_that_is_used_again_counts_as_new(folder: Path) -> None:
    source, sources = local_model(folder), offline(folder)
    os.utime(checked_copy(source, sources), (0, 0))
    assert time.time() - checked_copy(source, sources).stat().st_mtime < 3600


def test_names_that_no_answer_can_carry_are_escaped(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / os.fsdecode(b"\xff.bin"))
    assert "\\\\udcff.bin" in said_of(folder)


@pytest.mark.parametrize("place", ["tensor", "file"])
def test_an_index_with_half_a_character_is_told(folder: Path, place: str) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    entry = {HALF: "other.bin"} if place == "tensor" else {"weight": f"../{HALF}"}
    (folder / INDEX).write_text(json.dumps({"weight_map": entry}))
    assert "\\\\ud800" in said_of(folder)


def test_an_index_with_a_very_long_name_is_told_in_short(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"t" * 400_000: "x" * 90_000}}))
    assert len(said_of(folder)) < 2000


def test_an_adapter_of_half_a_character_is_told(tmp_path: Path) -> None:
    own = tmp_path / "mirror" / "models" / "me" / "adapter"
    own.mkdir(parents=True)
    (own / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": HALF}))
    with pytest.raises(ModelUnsupported) as refused:
        resolve_model("me/adapter", Sources((tmp_path / "mirror",), tmp_path / "c", offline=True))
    assert refused.value.detail.encode()


@pytest.mark.parametrize("model", ["me/a--b", "a..b", "me/x.git", "me/-x"])
def test_an_id_that_the_hub_has_not_is_not_found(model: str, online: Sources) -> None:
    with pytest.raises(ModelNotFound, match="model"):
        resolve_model(model, online)


def test_a_large_vocabulary_is_checked_before_it_is_copied(mirror: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mirror / "models" / TINY, tmp_path / "m"))
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["merges"] = "/etc/passwd"
    (folder / "tokenizer.json").write_text(json.dumps(document))
    source = local_model(folder)  # which reads no more of it than its size
    with pytest.raises(ModelUnsupported, match="merges is the text '/etc/passwd'"):
        checked_copy(source, offline(folder))
