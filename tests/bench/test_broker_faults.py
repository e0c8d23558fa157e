"""Submissions are answered within a second while Redis fails; each fault is tried shortly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.soak.broker import FAULTS
from tests.support.service.deployment import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_submissions_are_answered_while_redis_fails(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bench.soak.broker", "--seconds", "7"],
        cwd=ROOT, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert all(f"| {fault.name} " in ended.stdout for fault in FAULTS)
