"""Put the kit's model, and its wheels of what this Python lacks, into a folder.

unpack.py KIT FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

kit, place = Path(sys.argv[1]), sys.argv[2]


def lacks(wheel: Path) -> bool:
    """Whether no version of its distribution is installed."""
    try:
        version(wheel.name.partition("-")[0])
    except PackageNotFoundError:
        return True
    return False


wheels = [str(wheel) for wheel in sorted((kit / "wheels").glob("*.whl")) if lacks(wheel)]
print("installing", ", ".join(Path(wheel).name.partition("-")[0] for wheel in wheels) or "nothing")
if wheels:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-compile", "--target", place, *wheels]
    subprocess.run(command, check=True)
with zipfile.ZipFile(kit / "model.zip") as archive:
    archive.extractall(place)
