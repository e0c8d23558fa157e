"""The suite's processes must agree about its tests: an id depends on nothing but the source.

xdist compares the ids that its processes collected, and refuses to run where they differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.collected import COLLECTED

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
        from tests.support.collected import COLLECTED
        print(*map(repr, session.config.stash[COLLECTED]), sep="\\n")
sys.exit(pytest.main([*plain, "-m", "", "tests"], plugins=[Print()]))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_of_another_time_and_hash_collects_the_same_tests(
    request: pytest.FixtureRequest,
) -> None:
    """Beside this one, slow tests included."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    printed = subprocess.run(
        [sys.executable, "-c", COLLECT, "1000003"], cwd=ROOT, check=True, stdout=subprocess.PIPE,
        env={**kept, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}, text=True,
    ).stdout.splitlines()  # fmt: skip
    here, there = by_file(map(repr, request.config.stash[COLLECTED])), by_file(printed)
    assert len(printed) > 1000
    for file, ids in here.items():  # some, where paths were named
        known = set(ids)
        assert [each for each in there[file] if each in known] == ids


def by_file(ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids of each file, in their order."""
    found: dict[str, list[str]] = {}
    for each in ids:
        found.setdefault(each.partition("::")[0], []).append(each)
    return found
