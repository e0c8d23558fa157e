"""What a Hub's safetensors headers may hold, and how little of the file is fetched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from surgery.errors import UnsafeWeights, UpstreamUnavailable
from surgery.io.hub import hub_header
from surgery.io.safetensors import MAX_TENSORS
from surgery.io.sources import Sources
from tests.support.outside.hub import SHA, FakeHub

ONE = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def weights(entries: Any, data: bytes = b"") -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def header(hub: FakeHub, online: Sources, content: bytes) -> dict[str, int]:
    hub.files["model.safetensors"] = content
    found = hub_header("me/own", SHA, "model.safetensors", online)
    return {name: tensor.size for name, tensor in found.items()}


@pytest.mark.parametrize("ranges", [True, False])
def test_the_sizes_are_those_of_the_header(hub: FakeHub, online: Sources, ranges: bool) -> None:
    hub.ranges = ranges
    content = weights({"a": ONE, "__metadata__": {"format": "pt"}}, bytes(24))
    assert header(hub, online, content) == {"a": 6}
    assert hub.tokens == {"Bearer hf_canary"}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {**ONE, "shape": [1 << 62] * 1000}},  # slow to multiply out
        {"a": {**ONE, "shape": [1 << 63]}},
        {"n" * 501: ONE},
        {f"t{number}": ONE for number in range(MAX_TENSORS + 1)},
        [],
    ],
    ids=["dimensions", "size", "name", "tensors", "list"],
)
def test_what_no_encoder_has_is_refused(hub: FakeHub, online: Sources, entries: Any) -> None:
    with pytest.raises(UnsafeWeights):
        header(hub, online, weights(entries))


@pytest.mark.parametrize("content", [b"", b"short", (1 << 40).to_bytes(8, "little") + b"{}"])
def test_what_is_no_header_is_refused(hub: FakeHub, online: Sources, content: bytes) -> None:
    with pytest.raises(UnsafeWeights, match="header length"):
        header(hub, online, content)


def test_a_hub_that_fails_is_said_to_be_away(hub: FakeHub, online: Sources) -> None:
    hub.status = 503
    with pytest.raises(UpstreamUnavailable):
        header(hub, online, weights({"a": ONE}))
