"""Weights whose header lies, or whose numbers fit no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as files

from tests.support.corpus.case import Case, Json, either, refused

NAME = "model.safetensors"
EMBEDDINGS = "embeddings.word_embeddings.weight"


def _read(folder: Path) -> tuple[Json, bytes]:
    raw = (folder / NAME).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _write(folder: Path, header: Any, content: bytes, length: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if length is None else length
    (folder / NAME).write_bytes(size.to_bytes(8, "little") + raw + content)


def header(change: Callable[[Json], object]) -> Callable[[Path], object]:
    """The header with one thing changed."""

    def apply(folder: Path) -> None:
        document, content = _read(folder)
        _write(folder, change(document) or document, content)

    return apply


def of_one(**fields: Any) -> Callable[[Path], object]:
    """The entry of the embeddings with other fields."""
    return header(lambda document: document[EMBEDDINGS].update(fields))


def cut(keep: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Other bytes, made of those there are."""
    return lambda folder: (folder / NAME).write_bytes(keep((folder / NAME).read_bytes()))


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Other numbers, whose header is right."""

    def apply(folder: Path) -> None:
        found = files.load_file(folder / NAME)
        change(found)
        files.save_file(found, folder / NAME)

    return apply


def _filled(value: float) -> Callable[[dict[str, Any]], object]:
    def change(found: dict[str, Any]) -> None:
        for name, tensor in found.items():
            found[name] = np.full_like(tensor, value)

    return change


def _renamed(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update({name: found.pop(EMBEDDINGS)})


def _overlap(document: Json) -> None:
    first, second = [name for name in document if name != "__metadata__"][:2]
    document[second]["data_offsets"] = document[first]["data_offsets"]
    document[second]["shape"], document[second]["dtype"] = (
        document[first]["shape"], document[first]["dtype"],
    )  # fmt: skip


KINDS = ("float64", "float16", "int64", "uint8", "bool")
NAMES = (
    "../../evil",
    "a" * 100_000,
    "\ud800",
    "\0",
    "__metadata__",
    "encoder.layer.999999999.w",
    "",
)
MODELS: dict[str, Case] = {
    "empty": refused(cut(lambda _raw: b"")),
    "seven-bytes": refused(cut(lambda raw: raw[:7])),
    "header-cut": refused(cut(lambda raw: raw[:100])),
    "content-cut": refused(cut(lambda raw: raw[:-1])),
    "content-too-long": refused(cut(lambda raw: raw + b"\0")),
    "length-0": refused(cut(lambda raw: bytes(8) + raw[8:])),
    "length-most": refused(cut(lambda raw: b"\xff" * 8 + raw[8:])),
    "length-of-the-file": refused(cut(lambda raw: len(raw).to_bytes(8, "little") + raw[8:])),
    "zip": refused(cut(lambda raw: b"PK\x03\x04" + raw)),
    "no-json": refused(lambda folder: _write(folder, b"{", b"")),
    "a-list": refused(lambda folder: _write(folder, [], b"")),
    "nothing": refused(lambda folder: _write(folder, {}, b"")),
    "deep": refused(lambda folder: _write(folder, b"[" * 100_000, b"")),
    "binary": refused(lambda folder: _write(folder, b"\xff" * 64, b"")),
    "twice": refused(lambda folder: _write(folder, b'{"a":{},"a":{}}', b"")),
    "overlap": refused(header(_overlap)),
    "hole": refused(of_one(data_offsets=[0, 4])),
    "beyond-the-end": refused(of_one(data_offsets=[0, 1 << 40])),
    "negative": refused(of_one(data_offsets=[-8, 4])),
    "backwards": refused(of_one(data_offsets=[8, 4])),
    "offsets-text": refused(of_one(data_offsets="0,4")),
    "offsets-three": refused(of_one(data_offsets=[0, 4, 8])),
    "offsets-half": refused(of_one(data_offsets=[0.5, 4])),
    "type-unknown": refused(of_one(dtype="F31")),
    "type-list": refused(of_one(dtype=["F32"])),
    "type-smaller": refused(of_one(dtype="F16")),
    "shape-negative": refused(of_one(shape=[-1, 16])),
    "shape-huge": refused(of_one(shape=[1 << 62, 1 << 62])),
    "shape-text": refused(of_one(shape="2x3")),
    "shape-turned": refused(of_one(shape=[16, 30522])),
    "shape-flat": refused(of_one(shape=[16 * 30522])),
    "entry-null": refused(header(lambda document: document.update({EMBEDDINGS: None}))),
    "metadata-list": either(header(lambda document: document.update({"__metadata__": [1]}))),
    "metadata-numbers": either(header(lambda document: document.update({"__metadata__": {"a": 1}}))),
    "nan": either(tensors(_filled(float("nan")))),
    "infinite": either(tensors(_filled(float("inf")))),
    "zeros": either(tensors(_filled(0.0))),
    "largest": either(tensors(_filled(3e38))),
    **{f"tensors-of-{kind}": either(tensors(lambda found, kind=kind: found.update(
        {name: tensor.astype(kind) for name, tensor in found.items()}))) for kind in KINDS},
    **{f"name-{name[:12]!r}": either(tensors(_renamed(name))) for name in NAMES
       if name not in {"\ud800", "__metadata__"}},
    "without-layers": refused(tensors(lambda found: [found.pop(name) for name in list(found)
                                                     if "layer." in name])),
    "one-layer-less": either(tensors(lambda found: [found.pop(name) for name in list(found)
                                                    if "layer.3." in name])),
    "tensor-too-much": either(tensors(lambda found: found.update(
        {"encoder.layer.9.w": np.zeros(3, "float32")}))),
}  # fmt: skip
