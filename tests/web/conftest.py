"""A browser, and services for it to visit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.rows.invented import write_tasks
from tests.support.service.live_api import LiveApi, live_api
from tests.support.service.services import Running, embedded
from tests.support.web.browser import Watched, watched
from tests.support.web.chromium import browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for a module's tests; each opens a profile of its own in it.

    While it is open, Playwright's event loop runs in this thread, and ``asyncio.run`` is refused:
    tests of other folders must find it closed.
    """
    # Root has no sandbox to give, and a container has little shared memory.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser(), args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def service(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An embedded service with its worker, on invented rows."""
    own = tmp_path_factory.mktemp("rows")
    write_tasks(own)
    mirrors = os.pathsep.join((str(mirror), str(own)))
    with embedded(tmp_path_factory.mktemp("page"), mirrors) as running:
        yield running


@pytest.fixture
def api(tmp_path: Path, migrated_sqlite: Path) -> Iterator[LiveApi]:
    """An API without workers: whatever is queued stays queued."""
    copy = tmp_path / "test.db"
    copy.write_bytes(migrated_sqlite.read_bytes())
    with live_api(tmp_path, f"sqlite:///{copy}") as opened:
        yield opened


@pytest.fixture
def visit(api: LiveApi, chromium: Browser) -> Iterator[Watched]:
    """The page of that API."""
    with watched(chromium, str(api.http.base_url).rstrip("/")) as opened:
        yield opened


@pytest.fixture
def keys(api: LiveApi) -> dict[str, str]:
    """A key of the first project, and one of another; from then on nothing goes without."""

    def post(path: str, body: dict[str, Any], key: str = "") -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = api.http.post(path, json=body, headers=headers)
        answer.raise_for_status()
        return answer.json()

    own = post("/v1/keys", {"name": "own", "scopes": ["admin"]})["key"]
    other = post("/v1/projects", {"name": "other"}, own)["id"]
    body = {"name": "reader", "scopes": ["read"], "project": other}
    return {"own": own, "other": post("/v1/keys", body, own)["key"]}


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> Path | None:
    """The folder for the documentation's pictures, if they are to be made."""
    folder: Path | None = request.config.getoption("--page-images")
    return folder
