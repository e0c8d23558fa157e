"""What a checkpoint's safetensors headers tell, without reading a weight or importing torch.

A header is untrusted: its length, offsets, shapes and types are checked against the file before
anything else looks at it.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import ModelUnsupported, UnsafeWeights
from surgery.results import LayerInfo

MAX_HEADER_BYTES = 10_000_000  # BERT-large's is 50 kB; a larger one is an attack
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
FLOATS = {"F16", "BF16", "F32", "F64"}


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
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
            raise UnsafeWeights(f"{path.name} is no safetensors file: its header length is wrong")
        raw = file.read(length)
    tensors = _parse(raw, path.name)
    _check_layout(tensors, path.stat().st_size - 8 - length, path.name)
    return tensors, 8 + length


def _parse(raw: bytes, name: str) -> dict[str, TensorHeader]:
    try:
        entries = json.loads(raw)
        return {
            key: TensorHeader(
                dtype=str(entry["dtype"]),
                shape=tuple(_whole(size) for size in entry["shape"]),
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


def _whole(value: object) -> int:
    if type(value) is not int:  # neither 2.9 nor "3" nor true
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


def layers_of(sizes: dict[str, int], prefix: str) -> list[LayerInfo]:
    """The repeated blocks among tensor names: the longest numbered list.

    ``sizes`` maps tensor name to number of parameters; ``prefix`` is the name under which a task
    model holds the encoder. Raises ModelUnsupported when nothing repeats.
    """
    lists: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for name, size in sizes.items():
        match = re.match(r"(.+?)\.(\d+)\.", strip_prefix(name, prefix))
        if match:
            lists[match[1]][int(match[2])] += size
    best = max(lists.items(), key=lambda item: (len(item[1]), sum(item[1].values())), default=None)
    if best is None or len(best[1]) < 2 or set(best[1]) != set(range(len(best[1]))):
        raise ModelUnsupported(
            "the checkpoint has no list of repeated blocks to rank; layers must be numbered "
            "from 0, as in encoder.layer.0"
        )
    return [
        LayerInfo(name=f"{best[0]}.{index}", index=index, parameters=best[1][index])
        for index in sorted(best[1])
    ]
