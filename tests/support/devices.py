"""The devices that a test of `tests/gpu` runs on."""

from __future__ import annotations

import pytest

ON_EACH = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# For what starts processes of its own.
SLOW_ON_CPU = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
