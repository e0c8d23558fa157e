"""Ask an advisory database about the versions of constraints.txt, where one can be reached.

Exits with 1 if one of them has a known vulnerability. Without a network it says that the question
was left out, and exits with 0: a check must not depend on who answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 120
AUDIT = (
    *("-m", "pip_audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip"),
    *("--format", "json", "--progress-spinner", "off", "--timeout", "5"),
)


def answers() -> list[dict[str, Any]] | None:
    """What the database says of each version; None if it says nothing at all."""
    try:
        ended = subprocess.run(
            [sys.executable, *AUDIT],
            cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        told = json.loads(ended.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None
    return [each for each in told if "skip_reason" not in each] or None


def report(told: list[dict[str, Any]] | None) -> tuple[int, str]:
    """The exit code, and what to print."""
    if told is None:
        return 0, "advisories: left out, as no advisory database answers"
    lines = [
        f"{each['name']} {each['version']}: {found['id']}, mended in "
        f"{', '.join(found['fix_versions']) or 'no version'}"
        for each in told
        for found in each.get("vulns", [])
    ]
    if lines:
        return 1, "\n".join(["advisories: raise these versions in constraints.txt", *lines])
    return 0, f"advisories: none for the {len(told)} versions that the database knows"


if __name__ == "__main__":
    code, words = report(answers())
    print(f"==> {words}")  # noqa: T201
    sys.exit(code)
