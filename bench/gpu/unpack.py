"""Put the kit's model, and its wheels of what this Python lacks, into a folder.

unpack.py KIT FOLDER

What is there in a version older than the source declares is lacking too; where the kit has no wheel
of it, the machine's own is used all the same, and this says so.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

kit, place = Path(sys.argv[1]), sys.argv[2]
project = tomllib.loads((kit / "source" / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
declared = {
    canonicalize_name(requirement.name): requirement.specifier
    for requirement in map(
        Requirement, [*project["dependencies"], *extras["server"], *extras["worker"]]
    )
}


def installed(name: str) -> str | None:
    """The version that this Python has."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def suits(name: str) -> bool:
    """Whether it is installed and no older than declared."""
    found, wanted = installed(name), declared.get(canonicalize_name(name))
    return found is not None and (wanted is None or wanted.contains(found, prereleases=True))


names = {wheel: wheel.name.partition("-")[0] for wheel in sorted((kit / "wheels").glob("*.whl"))}
wheels = {wheel: name for wheel, name in names.items() if not suits(name)}
print("installing", ", ".join(wheels.values()) or "nothing")
others = [name for name in declared if name not in map(canonicalize_name, names.values())]
old = [f"{name} {installed(name)}" for name in others if installed(name) and not suits(name)]
if old:
    print("older here than what this was tested with:", ", ".join(old))
if wheels:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-compile", "--target", place]
    subprocess.run([*command, *map(str, wheels)], check=True)
with zipfile.ZipFile(kit / "model.zip") as archive:
    archive.extractall(place)
