"""Check what an environment with the client alone holds, and print how fast it starts."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

MOST_PACKAGES, MOST_MEGABYTES = 40, 60
ABSENT = ("torch", "fastapi", "sqlalchemy", "pyarrow", "numpy", "matplotlib")


def start_seconds() -> float:
    """The fastest of five `surgeon --help`, which is below half a second on an idle machine."""
    command = [Path(sys.executable).with_name("surgeon"), "--help"]
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    return min(took)


def main() -> None:
    """Raises AssertionError if the client brings too much."""
    site = Path(sysconfig.get_path("purelib"))
    packages = sorted({each.name for each in distributions(path=[str(site)])})
    megabytes = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    assert len(packages) < MOST_PACKAGES, packages
    assert megabytes < MOST_MEGABYTES, megabytes
    assert [name for name in ABSENT if find_spec(name)] == []
    sys.stdout.write(
        f"{len(packages)} packages, {megabytes:.1f} MB; surgeon --help: {start_seconds():.2f} s\n"
    )


if __name__ == "__main__":
    main()
