"""A Hub of its own for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from surgery.io.sources import Sources
from tests.support.outside.hub import FakeHub, served


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A Hub that holds nothing yet."""
    with served() as fake:
        yield fake


@pytest.fixture
def online(hub: FakeHub, tmp_path: Path) -> Sources:
    """No mirror: all comes from that Hub."""
    return Sources((), tmp_path / "cache", token="hf_canary", endpoint=hub.address)
