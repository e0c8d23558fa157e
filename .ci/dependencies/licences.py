"""Print the page of dependencies and their licences: ``python .ci/dependencies/licences.py``.

Of the packages that pyproject.toml names for what is run (not for tests, benchmarks and this
repository's own tools) and of what they bring, as they are installed here. With ``--write`` the
page is written instead.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/operations/licences.md"
EXTRAS = ("server", "worker", "mcp", "plot", "mlflow", "wandb", "otel")
LONGEST = 60  # characters; some packages put the whole text there
BEGIN = """# Licences

Layer Surgeon is under the Apache License 2.0. The packages that it is run with, and what the
metadata of each says. `client` is what `pip install layer-surgeon` brings, and part of all others.
`python .ci/dependencies/licences.py --write` makes this page.

| package | licence | brought by |
|---|---|---|
"""


def needs(package: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """What a package asks for on this machine, with these of its extras."""
    for text in package.requires or []:
        asked = Requirement(text)
        marker = asked.marker
        if marker is None or any(marker.evaluate({"extra": each}) for each in extras | {""}):
            yield asked


def brought(extra: str) -> set[str]:
    """The names of all packages that an extra of this one brings; empty: those it always has."""
    seen: set[tuple[str, ...]] = set()
    waiting = [(distribution("layer-surgeon"), {extra} - {""})]
    while waiting:
        package, extras = waiting.pop()
        for asked in needs(package, extras):
            key = (canonicalize_name(asked.name), *sorted(asked.extras))
            if key in seen:
                continue
            seen.add(key)
            with suppress(PackageNotFoundError):  # an optional part that is not installed
                waiting.append((distribution(asked.name), set(asked.extras)))
    found = {name for name, *_ in seen}
    return found - {"layer-surgeon"}


def licence(name: str) -> str:
    """The licence of a package, by its expression, its classifiers or its own words."""
    about = distribution(name).metadata
    if about.get("License-Expression"):
        return str(about.get("License-Expression"))
    named = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    own = re.sub(r"\s+", " ", about.get("License") or "")
    words = ", ".join(sorted(set(named) - {"OSI Approved"})) or own
    return words.replace("|", "/") if 0 < len(words) <= LONGEST else "see its own text"


def page() -> str:
    """The whole page, with the packages that constraints.txt holds at a version."""
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    always = brought("")
    by_extra = {extra: brought(extra) - always for extra in EXTRAS}
    lines = []
    for name in sorted((always | set().union(*by_extra.values())) & pinned):
        extras = ["client"] if name in always else [e for e in EXTRAS if name in by_extra[e]]
        lines.append(f"| {name} | {licence(name)} | {', '.join(extras)} |")
    return BEGIN + "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())
