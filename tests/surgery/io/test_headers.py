"""A safetensors header is untrusted: it describes its file exactly, or the file is refused."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from surgery.errors import UnsafeWeights
from surgery.io.safetensors import MAX_HEADER_BYTES, TensorHeader, read_header
from surgery.models.layers import parts_of
from surgery.schemas.enums import Granularity

WEIGHT = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
BIAS = {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}
GOOD = {"weight": WEIGHT, "bias": BIAS}


def written(path: Path, header: Any, data: int = 32, *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    count = len(raw) if length is None else length
    path.write_bytes(count.to_bytes(8, "little") + raw + bytes(data))
    return path


def test_header_of_a_real_file(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.ones(())}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found, start = read_header(tmp_path / "model.safetensors")
    assert {name: (header.shape, header.size) for name, header in found.items()} == {
        name: (tuple(tensor.shape), tensor.numel()) for name, tensor in tensors.items()
    }
    raw = (tmp_path / "model.safetensors").read_bytes()
    assert raw[start + found["b"].start : start + found["b"].end] == bytes.fromhex("003c") * 4


@pytest.mark.parametrize("header", [GOOD, {**GOOD, "__metadata__": {"format": "pt"}}, {}])
def test_good_headers(header: dict[str, Any], tmp_path: Path) -> None:
    found, _ = read_header(written(tmp_path / "w", header, data=32 if header else 0))
    assert found.keys() == header.keys() - {"__metadata__"}
    assert all(isinstance(tensor, TensorHeader) for tensor in found.values())


BAD: dict[str, tuple[Any, int]] = {
    "gap": ({"weight": WEIGHT, "bias": {**BIAS, "data_offsets": [28, 36]}}, 36),
    "gap at the start": ({"bias": BIAS}, 32),
    "overlap": ({"weight": WEIGHT, "bias": {**BIAS, "data_offsets": [20, 28]}}, 28),
    "same bytes": ({"weight": WEIGHT, "again": WEIGHT}, 24),
    "wrong size": ({"weight": {**WEIGHT, "data_offsets": [0, 20]}}, 20),
    "backwards": ({"weight": {**WEIGHT, "shape": [0], "data_offsets": [0, -4]}}, 0),
    "negative start": ({"weight": {**WEIGHT, "data_offsets": [-24, 0]}}, 0),
    "negative shape": ({"weight": {**WEIGHT, "shape": [-2, -3]}}, 24),
    "data too short": (GOOD, 31),
    "data too long": (GOOD, 33),
    "no data": (GOOD, 0),
    "unknown type": ({"weight": {**WEIGHT, "dtype": "F31"}}, 24),
    "type is a list": ({"weight": {**WEIGHT, "dtype": ["F32"]}}, 24),
    "shape is text": ({"weight": {**WEIGHT, "shape": "ab"}}, 24),
    "shape is missing": ({"weight": {"dtype": "F32", "data_offsets": [0, 24]}}, 24),
    "one offset": ({"weight": {**WEIGHT, "data_offsets": [0]}}, 24),
    "huge shape": ({"weight": {**WEIGHT, "shape": [2**62, 2**62]}}, 24),
    "shape is not a number": (
        b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 24]}}', 24,
    ),
    "number of many digits": (
        b'{"w": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 24]}}', 24,
    ),
    "list": ([GOOD], 32),
    "number": (17, 0),
    "null entry": ({"weight": None}, 0),
    "not JSON": (b"{'weight': 1}", 0),
    "not text": (b"\xff\xfe\x00\x01", 0),
    "two documents": (b"{}{}", 0),
    "deep nesting": (b"[" * 200_000 + b"]" * 200_000, 0),
    "deep value": (b'{"w":' * 100_000 + b"1" + b"}" * 100_000, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_malformed_headers(kind: str, tmp_path: Path) -> None:
    header, data = BAD[kind]
    with pytest.raises(UnsafeWeights):
        read_header(written(tmp_path / "model.safetensors", header, data))


def test_infinite_shape(tmp_path: Path) -> None:
    header = b'{"w": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 24]}}'
    with pytest.raises(UnsafeWeights):
        read_header(written(tmp_path / "model.safetensors", header, 24))


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1, 1000], ids=str)
def test_wrong_length(length: int, tmp_path: Path) -> None:
    with pytest.raises(UnsafeWeights):
        read_header(written(tmp_path / "model.safetensors", GOOD, length=length))


@pytest.mark.parametrize("kept", [0, 4, 7, 8, 20, 100])
def test_truncated(kept: int, tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", GOOD)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnsafeWeights):
        read_header(path)


def test_message_shows_no_long_name(tmp_path: Path) -> None:
    header = {"x" * 5000: {**WEIGHT, "dtype": "F31"}}
    with pytest.raises(UnsafeWeights) as caught:
        read_header(written(tmp_path / "model.safetensors", header, 24))
    assert len(caught.value.detail) < 200


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NEARLY = st.dictionaries(
    st.text(max_size=8),
    st.fixed_dictionaries(
        {"dtype": st.sampled_from(["F32", "U8", "F4"]) | ANYTHING,
         "shape": st.lists(st.integers(-2, 9), max_size=3) | ANYTHING,
         "data_offsets": st.lists(st.integers(-9, 99), max_size=3) | ANYTHING},
    ),
    max_size=3,
)  # fmt: skip
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


def refuse_or_read(path: Path) -> None:
    with contextlib.suppress(UnsafeWeights):
        tensors, start = read_header(path)
        # What is accepted describes the file to its last byte.
        assert max((t.end for t in tensors.values()), default=0) == path.stat().st_size - start


@QUICK
@given(raw=st.binary(max_size=200))
def test_random_files(raw: bytes, folder: Path) -> None:
    (folder / "random").write_bytes(raw)
    refuse_or_read(folder / "random")


@QUICK
@given(raw=st.binary(min_size=2, max_size=200), data=st.binary(max_size=20))
def test_random_headers(raw: bytes, data: bytes, folder: Path) -> None:
    (folder / "random").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    refuse_or_read(folder / "random")


@QUICK
@given(header=ANYTHING | NEARLY, data=st.integers(0, 40))
def test_random_json(header: Any, data: int, folder: Path) -> None:
    refuse_or_read(written(folder / "random", header, data))


def test_the_parts_of_a_header_of_many_layers_take_no_time_squared() -> None:
    """A header is untrusted: 20,000 layers of one tensor are found as fast as they are read."""
    sizes = {f"bert.encoder.layer.{index}.output.dense.weight": 1 for index in range(20_000)}
    began = time.monotonic()
    found = parts_of(sizes, "bert", Granularity.TENSOR)
    assert time.monotonic() - began < 20  # looking through all names for each takes minutes
    assert [part.index for part in found] == list(range(20_000))
