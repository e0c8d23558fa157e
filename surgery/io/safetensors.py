"""Read the header of a safetensors file without reading a weight.

A header is untrusted: its length, offsets, shapes and types are checked against the file before
anything else looks at it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from surgery.errors import UnsafeWeights

MAX_HEADER_BYTES = 10_000_000  # BERT-large's header has 50 kB; one above this limit is an attack
# The largest encoders have some 1,000 tensors of up to 5 dimensions under names of 90 characters.
MAX_TENSORS = 10_000
MAX_NAME = 500
MAX_DIMENSIONS = 64
ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
FLOATS = {"F16", "BF16", "F32", "F64"}


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a safetensors file: its type, shape and byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[dict[str, TensorHeader], int]:
    """The tensors of a safetensors file and the offset of its data.

    Raises UnsafeWeights if the header does not describe the file exactly.
    """
    with path.open("rb") as file:
        return read_open_header(file, path.name)


def read_open_header(file: BinaryIO, name: str) -> tuple[dict[str, TensorHeader], int]:
    """As `read_header`, for a file that is open at its start. Raises UnsafeWeights."""
    length = header_length(file.read(8), name)
    tensors = parse_header(file.read(length), name)
    _check_layout(tensors, os.fstat(file.fileno()).st_size - 8 - length, name)
    return tensors, 8 + length


def header_length(prefix: bytes, name: str) -> int:
    """The header's length in bytes, from the file's first eight bytes. Raises UnsafeWeights."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        raise UnsafeWeights(f"{name} is not a safetensors file: its header length is wrong")
    return length


def parse_header(raw: bytes, name: str) -> dict[str, TensorHeader]:
    """The tensors of a header; their byte ranges are not checked. Raises UnsafeWeights."""
    try:
        entries = json.loads(raw)
        check_count(len(entries), name)
        return {
            _named(key): TensorHeader(
                dtype=str(entry["dtype"]),
                shape=_shape(entry["shape"]),
                start=_whole(entry["data_offsets"][0]),
                end=_whole(entry["data_offsets"][1]),
            )
            for key, entry in entries.items()
            if key != "__metadata__"
        }
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UnsafeWeights(f"{name} has a malformed safetensors header") from error


def check_count(tensors: int, name: str) -> None:
    """Raise UnsafeWeights for a number of tensors that no encoder has."""
    if tensors > MAX_TENSORS:
        raise UnsafeWeights(f"{name} has {tensors:,} tensors; no encoder has over {MAX_TENSORS:,}")


def _named(name: str) -> str:
    if len(name) > MAX_NAME:
        raise ValueError("a name too long for a module's path")
    return name


def _shape(sizes: list[object]) -> tuple[int, ...]:
    if len(sizes) > MAX_DIMENSIONS:
        raise ValueError("too many dimensions")
    return tuple(_whole(size) for size in sizes)


def _whole(value: object) -> int:
    if type(value) is not int or abs(value) >= 1 << 63:  # neither 2.9 nor "3" nor true
        raise TypeError("not a whole number")
    return value


def _check_layout(tensors: dict[str, TensorHeader], data_bytes: int, name: str) -> None:
    position = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        item = ITEM_BYTES.get(tensor.dtype)
        if item is None or min(tensor.shape, default=0) < 0:
            raise UnsafeWeights(f"{name}: tensor {key[:80]!r} has an unknown type or shape")
        if tensor.start != position or tensor.end - tensor.start != tensor.size * item:
            raise UnsafeWeights(f"{name}: tensor {key[:80]!r} does not match its byte range")
        position = tensor.end
    if position != data_bytes:
        raise UnsafeWeights(
            f"{name} has {data_bytes} bytes of data, but its header describes {position}"
        )
