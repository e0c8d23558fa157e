"""Print the lowest versions that pyproject.toml declares, as pip's constraints.

lowest.py [EXTRA ...]

What the dependencies bring in turn is held at constraints.txt's versions, but for what fits only
newer ones.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# Their newest release that the lowest httpx2, psycopg, mlflow-skinny, numpy, opentelemetry-sdk or
# schemathesis goes with, as pip finds it.
FREE = {
    "httpcore2",
    "importlib-metadata",
    "jsonschema-rs",
    "opentelemetry-api",
    "opentelemetry-semantic-conventions",
    "pandas",
    "protobuf",
    "psycopg-binary",
}


def lowest(extras: list[str]) -> dict[str, str]:
    """Versions by name of what the base install and these extras ask for on this Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][each] for each in extras)]
    found = {}
    for requirement in (Requirement(line) for lines in lists for line in lines):
        bounds = [each.version for each in requirement.specifier if each.operator == ">="]
        if bounds and (requirement.marker is None or requirement.marker.evaluate()):
            found[canonicalize_name(requirement.name)] = bounds[0]
    return found


def constraints(extras: list[str]) -> Iterator[str]:
    """The lines."""
    found = lowest(extras)
    yield from (f"{name}=={version}" for name, version in found.items())
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if canonicalize_name(line.partition("==")[0]) not in {*found, *FREE}:
            yield line


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in constraints(sys.argv[1:]))
