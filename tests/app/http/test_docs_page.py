"""The documentation page works without any other host, and the browser may run nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.support.service.problems import problem


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path, offline=True)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


class Assets(HTMLParser):
    """Everything that a page names by its address, and scripts and styles within the page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [str(given[name]) for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def test_the_page_and_all_that_it_names_come_from_the_service(api: TestClient) -> None:
    page = api.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assets = Assets()
    assets.feed(page.text)
    assert assets.inline == []
    start = api.get("/docs/start.js").text
    document = re.findall(r'url: "([^"]+)"', start)
    assert len(document) == 1
    assert len(assets.addresses) == 5
    for address in (*assets.addresses, *document):
        target = urljoin("http://127.0.0.1/docs", address)
        assert target.startswith("http://127.0.0.1/"), address
        answer = api.get(target)
        assert answer.status_code == 200, address
        assert answer.content
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}
        expected = kind.get(Path(address).suffix, "application/json")
        assert answer.headers["content-type"].startswith(expected)
    assert "SwaggerUIBundle" in api.get("/docs/swagger-ui-bundle.js").text


def test_the_style_sheet_names_no_other_host(api: TestClient) -> None:
    sheet = api.get("/docs/swagger-ui.css").text
    named = re.findall(r"url\(\s*[\"']?([^)\"']+)", sheet)
    assert all(address.startswith("data:image/") for address in named)
    assert "@import" not in sheet


def test_the_policy_lets_nothing_else_run(api: TestClient) -> None:
    policy = api.get("/docs").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert "http" not in policy


def test_other_names_below_it_are_not_found(api: TestClient) -> None:
    for name in ("redoc.standalone.js", "..%2f__init__.py", "%2e%2e", "x" * 300, "a%00"):
        problem(api.get(f"/docs/{name}"), 404, "not_found")
    problem(api.get("/redoc"), 404, "not_found")
