"""The suite's processes must agree about its tests: an id depends on nothing but the source.

xdist compares the ids that its processes collected, and refuses to run where they differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Collects the tests with the clock moved by so many seconds, before anything reads it.
COLLECT = """
import sys, time
moved, true_time, true_time_ns = int(sys.argv[1]), time.time, time.time_ns
time.time = lambda: true_time() + moved
time.time_ns = lambda: true_time_ns() + moved * 10**9
import pytest
plain = ["--collect-only", "-p", "no:cacheprovider", "-p", "no:terminal", "-o", "addopts="]
class Print:
    def pytest_collection_finish(self, session):
        print(*(repr(item.nodeid) for item in session.items), sep="\\n")
sys.exit(pytest.main([*plain, "-m", "", "tests"], plugins=[Print()]))
"""


def collecting(moved: int, hash_seed: str) -> subprocess.Popen[str]:
    """A process that prints the id of every test, slow ones too."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    return subprocess.Popen(
        [sys.executable, "-c", COLLECT, str(moved)],
        cwd=ROOT,
        env={**kept, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_of_other_times_and_hashes_collect_the_same_tests() -> None:
    processes = [collecting(0, "1"), collecting(1_000_003, "2")]
    one, other = (process.communicate()[0].splitlines() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]] == []
    assert len(one) == len(other) > 1000
