"""Headers made to take long: refused before anything is done with each of their tensors."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import UnsafeWeights
from surgery.io.safetensors import MAX_HEADER_BYTES, MAX_TENSORS, read_header
from surgery.io.sources import Sources
from surgery.models.source.resolve import inspect_model, local_model
from tests.support.models.mirror import TINY

SECONDS = 5.0  # a hundred times what any of them takes on an idle machine
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
LARGE = (1 << 63) - 1


def write(path: Path, header: Mapping[str, Any]) -> Path:
    raw = json.dumps(header, separators=(",", ":")).encode()
    assert len(raw) <= MAX_HEADER_BYTES
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    return path


def layers(count: int, first: int = 0) -> dict[str, Any]:
    return {f"encoder.layer.{first + index}.w": EMPTY for index in range(count)}


HOSTILE: dict[str, tuple[Any, str]] = {
    "100,000 layers": (lambda: layers(100_000), "100,000 tensors"),
    "one too many": (lambda: layers(MAX_TENSORS + 1), "10,001 tensors"),
    "a list in a list in a list": (lambda: {"0." * 1_000_000 + "w": EMPTY}, "malformed"),
    "endless numbers": (
        lambda: {"w": {**EMPTY, "shape": [int("9" * 4000)] * 2000}}, "malformed",
    ),
    "large numbers": (lambda: {"w": {**EMPTY, "shape": [LARGE] * 400_000}}, "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    header, words = HOSTILE[kind]
    path = write(tmp_path / "model.safetensors", header())
    began = time.perf_counter()
    with pytest.raises(UnsafeWeights, match=words):
        read_header(path)
    assert time.perf_counter() - began < SECONDS


def test_so_are_many_files_that_hold_them_together(tmp_path: Path, mirror: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(mirror / "models" / TINY, folder)
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{part + 1}-of-00002.safetensors" for part in range(2)]
    for part, name in enumerate(names):
        write(folder / name, layers(MAX_TENSORS, part * MAX_TENSORS))
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeWeights, match="20,000 tensors; no encoder has over 10,000"):
        inspect_model(local_model(folder), Sources((), tmp_path / "cache"))


def test_as_many_as_any_encoder_might_have_are_read(tmp_path: Path) -> None:
    found, _ = read_header(write(tmp_path / "model.safetensors", layers(MAX_TENSORS)))
    assert len(found) == MAX_TENSORS
