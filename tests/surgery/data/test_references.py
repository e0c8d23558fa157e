from __future__ import annotations

import gzip
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from surgery.data.references import materialise, resolve_dataset
from surgery.errors import DatasetInvalid, DatasetNotFound
from surgery.io.digests import file_digest
from surgery.io.sources import Sources, mirror_path
from surgery.schemas.data.dataset import Columns, HubDataset

SHA = "0123456789abcdef0123456789abcdef01234567"
COLA = [{"sentence": f"s {n}", "label": n % 2, "idx": n} for n in range(6)]


def put(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    root = tmp_path / "mirror"
    put(root, "datasets/nyu-mll/glue/cola/train.jsonl", COLA)
    put(root, "datasets/nyu-mll/glue/cola/validation.jsonl", COLA[:2])
    return root


@pytest.fixture
def sources(mirror: Path, tmp_path: Path) -> Sources:
    return Sources((mirror,), tmp_path / "cache", offline=True)


def test_a_preset_is_found_in_the_mirror(sources: Sources, mirror: Path) -> None:
    found = resolve_dataset("glue/cola", sources)
    assert (found.id, found.origin, found.revision) == ("glue/cola", "mirror", None)
    assert found.rows == {"train": 6, "validation": 2}
    assert found.labels == ("unacceptable", "acceptable")
    assert found.metrics == ("matthews_correlation",)
    assert found.files["train"].is_relative_to(mirror)
    assert found == resolve_dataset("glue/cola", sources)


def test_loading_is_done_once(sources: Sources, mirror: Path) -> None:
    found = resolve_dataset("glue/cola", sources)
    folder, report = materialise(found, sources)
    assert folder.name == found.fingerprint.removeprefix("sha256:")
    assert report.labels == ["unacceptable", "acceptable"]
    assert report.rows == found.rows
    written = (folder / "train.arrow").stat().st_mtime_ns
    assert materialise(found, sources) == (folder, report)
    assert (folder / "train.arrow").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_loading_at_once_from_many_threads(sources: Sources) -> None:
    found = resolve_dataset("glue/cola", sources)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: materialise(found, sources), range(8)))
    assert len({report.fingerprint for _, report in done}) == 1
    folder = done[0][0]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_fingerprint_follows_content_and_columns(sources: Sources, mirror: Path) -> None:
    first = resolve_dataset("glue/cola", sources)
    same = HubDataset(hub="nyu-mll/glue", config="cola",
                      columns=Columns(text="sentence", label="label"))  # fmt: skip
    by_id = resolve_dataset(same, sources)
    assert by_id.id == "nyu-mll/glue/cola"
    assert by_id.labels is None
    assert by_id.metrics == ()
    assert by_id.fingerprint != first.fingerprint, "the preset has label names"
    put(mirror, "datasets/nyu-mll/glue/cola/train.jsonl", COLA[::-1])
    changed = resolve_dataset("glue/cola", sources)
    assert changed.fingerprint != first.fingerprint
    with pytest.raises(DatasetInvalid, match="changed since"):
        materialise(first, sources)


def test_an_unknown_name_gets_the_nearest(sources: Sources) -> None:
    with pytest.raises(DatasetNotFound, match=r"did you mean 'glue/cola'\?.*GET /v1/tasks"):
        resolve_dataset("glue/colla", sources)
    with pytest.raises(DatasetNotFound, match="GET /v1/tasks"):
        resolve_dataset("http://169.254.169.254/\0", sources)


@pytest.mark.parametrize(
    ("name", "other"), [("glue/ax", "glue/mnli"), ("super_glue/axb", "super_glue/rte"),
                        ("super_glue/axg", "super_glue/rte")],
)  # fmt: skip
def test_a_diagnostic_says_what_to_train_on(sources: Sources, name: str, other: str) -> None:
    with pytest.raises(DatasetInvalid, match=rf"evaluation only.* Name {other} as"):
        resolve_dataset(name, sources)


def test_offline_says_where_the_file_would_be(sources: Sources) -> None:
    with pytest.raises(DatasetNotFound) as caught:
        resolve_dataset("glue/mnli", sources)
    assert "offline" in caught.value.detail
    assert "datasets/nyu-mll/glue/mnli/train.jsonl" in caught.value.detail
    assert "validation_matched.jsonl" in caught.value.detail
    with pytest.raises(DatasetNotFound, match="revision"):
        resolve_dataset(HubDataset(hub="nyu-mll/glue", config="cola", revision="main"), sources)


@pytest.mark.parametrize("inner", [False, True])
def test_a_mirror_has_the_revision_that_was_downloaded(
    sources: Sources, mirror: Path, inner: bool
) -> None:
    """Recorded by `hf download` in the folder of the repository, or of one of its configs."""
    folder = mirror / "datasets/nyu-mll/glue"
    root = folder / "cola" if inner else folder
    for name in ("train.jsonl", "validation.jsonl"):
        file = folder / "cola" / name
        path = root / ".cache/huggingface/download" / f"{file.relative_to(root)}.metadata"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{SHA}\netag\n{file.stat().st_mtime}\n")
    found = resolve_dataset("glue/cola", sources)
    assert (found.origin, found.revision) == ("mirror", SHA)
    assert resolve_dataset("glue/cola", sources, SHA).fingerprint == found.fingerprint
    reference = HubDataset(hub="nyu-mll/glue", config="cola", revision="main")
    with pytest.raises(DatasetNotFound, match=f"'main'.*has revision '{SHA}' only"):
        resolve_dataset(reference, sources)


def test_a_column_that_is_not_there_is_found_at_once(sources: Sources) -> None:
    reference = HubDataset(hub="nyu-mll/glue", config="cola",
                           columns=Columns(text="sentense", label="label"))  # fmt: skip
    with pytest.raises(DatasetInvalid, match="did you mean 'sentence'") as caught:
        resolve_dataset(reference, sources)
    assert [fault.pointer for fault in caught.value.faults] == ["/dataset/columns/text"]


def test_a_hidden_label_is_named_on_loading(sources: Sources, mirror: Path) -> None:
    rows = [{"sentence": "x", "label": -1}]
    put(mirror, "datasets/nyu-mll/glue/cola/validation.jsonl", COLA[:3] + rows)
    with pytest.raises(DatasetInvalid, match="hidden label") as caught:
        materialise(resolve_dataset("glue/cola", sources), sources)
    assert caught.value.faults[0].row == 4
    assert not (sources.cache / "datasets").exists()


def test_other_formats_and_later_mirrors(sources: Sources, tmp_path: Path) -> None:
    second = tmp_path / "second" / "datasets" / "me" / "own"
    second.mkdir(parents=True)
    (second / "train.csv").write_text("text,label\na,1\nb,0\nc,1\n")
    pq.write_table(pa.table({"text": ["a"], "label": ["1"]}), second / "validation.parquet")
    both = replace(sources, mirrors=(*sources.mirrors, tmp_path / "second"))
    found = resolve_dataset(HubDataset(hub="me/own"), both)
    assert found.rows == {"train": 3, "validation": 1}
    assert materialise(found, both)[1].labels == ["0", "1"]


OWN = HubDataset(hub="me/own")
LINES = b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'


def own_folder(mirror: Path) -> Path:
    folder = mirror / "datasets" / "me" / "own"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_compressed_splits_are_read(sources: Sources, mirror: Path) -> None:
    folder = own_folder(mirror)
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(LINES))
    (folder / "validation.csv.zst").write_bytes(zstd.compress(b"text,label\nc,1\n"))
    found = resolve_dataset(OWN, sources)
    assert found.rows == {"train": 2, "validation": 1}
    assert materialise(found, sources)[1].rows == found.rows


def test_a_bomb_in_the_mirror_is_refused_before_it_is_unpacked(
    sources: Sources, mirror: Path
) -> None:
    folder = own_folder(mirror)
    bomb = gzip.compress(LINES + b'{"text": "%s", "label": 1}\n' % (b"x" * 999_000) * 40)
    (folder / "train.jsonl.gz").write_bytes(bomb)
    (folder / "validation.jsonl").write_bytes(LINES)
    with pytest.raises(DatasetInvalid, match="200 times its size") as caught:
        resolve_dataset(OWN, sources)
    assert caught.value.faults[0].file == "train.jsonl.gz"


@pytest.mark.parametrize("second", ["train.jsonl.gz", "train.csv", "train.parquet"])
def test_two_files_of_one_split_are_refused(sources: Sources, mirror: Path, second: str) -> None:
    folder = own_folder(mirror)
    for name in ("train.jsonl", second, "validation.jsonl"):
        (folder / name).write_bytes(LINES)
    with pytest.raises(DatasetInvalid, match=rf"own holds train\.jsonl, {second}, and each is"):
        resolve_dataset(OWN, sources)


def test_a_dataset_is_taken_from_the_first_mirror_that_has_it_whole(
    sources: Sources, mirror: Path, tmp_path: Path
) -> None:
    """Halves of two mirrors may be of two versions of the data."""
    mirrors = [tmp_path / name for name in ("half", "first", "last")]
    for place, root in enumerate(mirrors):
        (own_folder(root) / "train.csv").write_text("text,label\n" + "a,1\n" * (place + 2))
    for root in mirrors[1:]:
        (own_folder(root) / "validation.jsonl").write_bytes(LINES)
    found = resolve_dataset(OWN, replace(sources, mirrors=tuple(mirrors)))
    assert {path.parent for path in found.files.values()} == {own_folder(mirrors[1])}
    assert found.rows["train"] == 3
    with pytest.raises(
        DatasetNotFound, match=r"own/validation\.jsonl .* mirror 1 holds train\.csv there"
    ):
        resolve_dataset(OWN, replace(sources, mirrors=(mirrors[0],)))


def test_a_link_may_name_a_file_without_a_suffix(sources: Sources, mirror: Path) -> None:
    """As the Hub's own cache keeps files: blobs called by their hashes."""
    folder = own_folder(mirror)
    (mirror / "blob").write_bytes(gzip.compress(LINES))
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl.gz").symlink_to(mirror / "blob")
    found = resolve_dataset(OWN, sources)
    assert found.rows == {"train": 2, "validation": 2}
    assert materialise(found, sources)[1].labels == ["0", "1"]


def test_a_link_out_of_the_mirror_is_refused(
    sources: Sources, mirror: Path, tmp_path: Path
) -> None:
    outside = put(tmp_path, "secret.jsonl", COLA)
    inside = mirror / "datasets/nyu-mll/glue/cola/train.jsonl"
    inside.unlink()
    inside.symlink_to(outside)
    assert mirror_path(sources, "datasets", "nyu-mll", "glue", "cola", "train.jsonl") is None
    with pytest.raises(DatasetNotFound):
        resolve_dataset("glue/cola", sources)
    inside.unlink()
    inside.symlink_to(mirror / "datasets/nyu-mll/glue/cola/validation.jsonl")
    assert resolve_dataset("glue/cola", sources).rows["train"] == 2


@pytest.mark.parametrize("part", ["..", ".", "", "a/b", "/etc", "a\0b", "a\\b"])
def test_a_part_is_one_name(sources: Sources, part: str) -> None:
    assert mirror_path(sources, "datasets", part) is None


def test_the_digest_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    assert file_digest(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"three")
    assert file_digest(path) == hashlib.sha256(b"three").hexdigest()


def test_the_token_is_never_shown(tmp_path: Path) -> None:
    assert "hf_canary" not in repr(Sources((), tmp_path, token="hf_canary"))
