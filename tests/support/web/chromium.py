"""Where the browser is that tests of the web page drive. Imports nothing that drives it: the tests
of a GPU, which share the conftest, run without."""

from __future__ import annotations

import os
import shutil
from functools import cache

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = (
    "tests/web was left out: no Chromium is installed; run `apt-get install -y chromium`, or name "
    "one with SURGEON_TEST_CHROMIUM"
)


@cache
def browser() -> str | None:
    """The path of an installed Chromium, or None."""
    given = os.environ.get("SURGEON_TEST_CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


def asks_for_page(config: pytest.Config) -> bool:
    """Whether a command line names the tests of the page, alone or among others."""
    root = config.rootpath
    named = [(root / str(arg).partition("::")[0]).resolve() for arg in config.args or ["tests"]]
    page = root / "tests/web"
    return any(path == page or path in page.parents or page in path.parents for path in named)
