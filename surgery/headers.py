"""What a checkpoint's safetensors headers tell, without reading a weight or importing torch.

A header is untrusted: its length, offsets, shapes and types are checked against the file before
anything else looks at it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from surgery.errors import ModelUnsupported, UnsafeWeights
from surgery.results import LayerInfo

MAX_HEADER_BYTES = 10_000_000  # BERT-large's is 50 kB; a larger one is an attack
# The largest encoders have some 1,000 tensors of up to 5 dimensions under names of 90 characters.
MAX_TENSORS = 10_000
MAX_NAME = 500
MAX_DIMENSIONS = 64
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
FLOATS = {"F16", "BF16", "F32", "F64"}
Entries = dict[int, dict[str, int]]  # number in a list → rest of the tensor's name → parameters
Stack = list[tuple[str, int]]  # blocks with their parameters, bottom to top


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a safetensors file: type, shape and its byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[dict[str, TensorHeader], int]:
    """The tensors of a safetensors file and the offset of its data.

    Raises UnsafeWeights when the header does not describe the file exactly.
    """
    with path.open("rb") as file:
        return read_open_header(file, path.name)


def read_open_header(file: BinaryIO, name: str) -> tuple[dict[str, TensorHeader], int]:
    """The same of a file that is open at its start. Raises UnsafeWeights."""
    length = header_length(file.read(8), name)
    tensors = parse_header(file.read(length), name)
    _check_layout(tensors, os.fstat(file.fileno()).st_size - 8 - length, name)
    return tensors, 8 + length


def header_length(prefix: bytes, name: str) -> int:
    """Bytes of the header, by the first eight of the file. Raises UnsafeWeights."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        raise UnsafeWeights(f"{name} is no safetensors file: its header length is wrong")
    return length


def parse_header(raw: bytes, name: str) -> dict[str, TensorHeader]:
    """The tensors of a header, whose byte ranges are not compared with a file yet.

    Raises UnsafeWeights.
    """
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
    """Refuse a number of tensors that no encoder has, before anything is done with each of them.

    Raises UnsafeWeights.
    """
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
            f"{name} is {data_bytes} bytes of data, its header speaks of {position}"
        )


def strip_prefix(name: str, prefix: str) -> str:
    """``bert.encoder.layer.0…`` and ``encoder.layer.0…`` are the same tensor of a BERT."""
    return name.removeprefix(f"{prefix}.")


def encoder_sizes(sizes: dict[str, int], prefix: str) -> dict[str, int]:
    """The encoder's own tensors under their names inside it.

    A checkpoint of a task model names them ``<prefix>.…`` and its head without; one of an encoder
    alone knows no prefix.
    """
    inside = {name: size for name, size in sizes.items() if name.startswith(f"{prefix}.")}
    return {strip_prefix(name, prefix): size for name, size in (inside or sizes).items()}


def in_decoder(name: str) -> bool:
    """Whether a module or tensor belongs to a decoder, as Funnel's upsampling layers do."""
    return "decoder" in name.split(".")


def layers_of(sizes: dict[str, int], prefix: str) -> list[LayerInfo]:
    """The blocks among tensor names, as ``find_blocks`` finds them among modules.

    ``sizes`` maps tensor name to number of parameters; ``prefix`` is the name under which a task
    model holds the encoder. Raises ModelUnsupported when nothing is numbered from 0.
    """
    lists = _numbered(encoder_sizes(sizes, prefix))
    stacks = {path: _flattened(path, entries) for path, entries in lists.items()}
    best = max(stacks, key=lambda path: _precedence(stacks[path]), default=None)
    if best is None or not _from_zero(lists[best]):
        raise ModelUnsupported(
            "the checkpoint has no list of repeated blocks to rank; layers must be numbered "
            "from 0, as in encoder.layer.0"
        )
    return [
        LayerInfo(name=name, index=index, parameters=size)
        for index, (name, size) in enumerate(stacks[best])
    ]


def _precedence(stack: Stack) -> tuple[bool, int, int]:
    return not in_decoder(stack[0][0]), len(stack), sum(size for _, size in stack)


def _from_zero(numbers: Collection[int]) -> bool:
    return set(numbers) == set(range(len(numbers)))


def _numbered(sizes: dict[str, int]) -> dict[str, Entries]:
    """Path of each outermost list, with its dot, → what it holds."""
    lists: dict[str, Entries] = defaultdict(lambda: defaultdict(dict))
    for name, size in sizes.items():
        match = re.match(r"(|.+?\.)(\d+)\.(.+)", name)
        if match:
            lists[match[1]][int(match[2])][match[3]] = size
    return lists


def _flattened(path: str, entries: Entries) -> Stack:
    stack: Stack = []
    for index, tensors in sorted(entries.items()):
        inner = _inner_list(tensors)
        if inner is None:
            stack.append((f"{path}{index}", sum(tensors.values())))
        else:
            stack += _flattened(f"{path}{index}.{inner[0]}", inner[1])
    return stack


def _inner_list(tensors: dict[str, int]) -> tuple[str, Entries] | None:
    """The list that holds all of an entry's tensors, where its own entries are alike."""
    lists = _numbered(tensors)
    if len(lists) != 1:
        return None
    [(path, entries)] = lists.items()
    kinds = {frozenset(inner) for inner in entries.values()}
    whole = sum(len(inner) for inner in entries.values()) == len(tensors)
    return (path, entries) if whole and len(kinds) == 1 and _from_zero(entries) else None
