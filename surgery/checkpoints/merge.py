"""Merge a delta and its base into a full checkpoint as streams of bytes, without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgery.errors import UnsafeWeights
from surgery.io.folders import CHUNK
from surgery.io.safetensors import TensorHeader, read_header

DELTA = "delta.safetensors"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT prescribes this name and the next
ADAPTER_FILE = "adapter_model.safetensors"
RECORD = "surgery.json"


@dataclass(frozen=True)
class Origin:
    """A tensor of the base checkpoint, or its rows from the first up to (not including) the end."""

    key: str
    rows: tuple[int, int] | None = None


def origins_of(record: Mapping[str, Any]) -> dict[str, Origin]:
    """Frozen tensor → its origin in the base, from a checkpoint's record."""
    rows = {name: (first, end) for name, (first, end) in record["rows"].items()}
    return {name: Origin(key, rows.get(name)) for name, key in record["frozen"].items()}


@dataclass(frozen=True)
class Piece:
    """A byte range of a file."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class MergedWeights:
    """The bytes of a ``model.safetensors``: a header, followed by byte ranges of other files."""

    header: bytes
    pieces: list[Piece]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.header) + sum(piece.length for piece in self.pieces)

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The file's bytes from ``start`` up to ``end``, in chunks of at most 1 MiB."""
        end = self.size if end is None else end
        yield self.header[start:end]
        position = len(self.header)
        for piece in self.pieces:
            first, last = max(start - position, 0), min(end - position, piece.length)
            if first < last:
                yield from _read(Piece(piece.path, piece.offset + first, last - first))
            position += piece.length


def _read(piece: Piece) -> Iterator[bytes]:
    left = piece.length
    with piece.path.open("rb") as file:
        file.seek(piece.offset)
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise UnsafeWeights(f"{piece.path.name} ended early")
            left -= len(chunk)
            yield chunk


def merge(delta: Path, base_weights: list[Path]) -> MergedWeights:
    """Lay out the full weights: trained tensors from the delta, all others from the base.

    The delta's ``surgery.json`` says where in the base each frozen tensor is. Raises UnsafeWeights
    if the base lacks one.
    """
    tensors: dict[str, tuple[TensorHeader, Path, int]] = {}
    base: dict[str, tuple[TensorHeader, Path, int]] = {}
    for path in base_weights:
        base |= _located(path)
    frozen = origins_of(json.loads((delta / RECORD).read_text()))
    for name, origin in frozen.items():
        if origin.key not in base:
            raise UnsafeWeights(
                f"the base model has no tensor {origin.key}: it is not the model that was trained"
            )
        header, path, start = base[origin.key]
        tensors[name] = (_cut(header, origin), path, start)
    tensors |= _located(delta / DELTA)
    return _lay_out(tensors)


def _cut(header: TensorHeader, origin: Origin) -> TensorHeader:
    if origin.rows is None:
        return header
    first, end = origin.rows
    if not header.shape or end > header.shape[0]:
        raise UnsafeWeights(
            f"tensor {origin.key} of the base model has no rows {first} to {end}: it is not the "
            "model that was trained"
        )
    row_bytes = (header.end - header.start) // header.shape[0]
    return replace(
        header,
        shape=(end - first, *header.shape[1:]),
        start=header.start + first * row_bytes,
        end=header.start + end * row_bytes,
    )


def _located(path: Path) -> dict[str, tuple[TensorHeader, Path, int]]:
    header, start = read_header(path)
    return {name: (tensor, path, start) for name, tensor in header.items()}


def _lay_out(tensors: dict[str, tuple[TensorHeader, Path, int]]) -> MergedWeights:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    pieces, position = [], 0
    for name, (tensor, path, start) in sorted(tensors.items()):
        length = tensor.end - tensor.start
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + length],
        }
        pieces.append(Piece(path, start + tensor.start, length))
        position += length
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the format aligns its data to eight bytes
    return MergedWeights(len(raw).to_bytes(8, "little") + raw, pieces)
