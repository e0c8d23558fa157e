"""Check what a run of the GPU's kit on the CPU left: kit_results.py RESULTS SECTION ..."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tests_marked(expression: str) -> int:
    """How many of the kit's tests these marks choose."""
    command = [
        sys.executable, "-m", "pytest", "tests/gpu", "--confcutdir", "tests/gpu", "--collect-only",
        "--override-ini", "addopts=--quiet", "-m", expression, "-p", "no:cacheprovider",
    ]  # fmt: skip
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return sum("::" in line for line in listed.stdout.splitlines())


def check(results: Path, names: list[str]) -> str:
    """Each section ended well and wrote its table; of the tests, the GPU's count as deselected."""
    sections = json.loads((results / "summary.json").read_text())["sections"]
    assert [section["name"] for section in sections] == names, sections
    for name, section in zip(names, sections, strict=True):
        assert section["status"] == "done", (section, (results / f"{name}.log").read_text())
        assert (results / f"{name}.txt").stat().st_size > 0, name
        assert name in (results / "summary.txt").read_text(), name
        assert name == "tests" or json.loads((results / f"{name}.json").read_text()), name
    counts = sections[0]["counts"]
    run, on_gpu, slow = map(tests_marked, ("not gpu and not slow", "gpu", "slow and not gpu"))
    assert on_gpu > 0, "no test is marked gpu"
    assert counts == {"passed": run, "deselected": on_gpu + slow}, (counts, run, on_gpu, slow)
    return f"{len(names)} sections done, {run} tests passed, {on_gpu} of a GPU deselected"


if __name__ == "__main__":
    sys.stdout.write(f"{check(Path(sys.argv[1]), sys.argv[2:])}\n")
