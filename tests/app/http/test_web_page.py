"""The web page as the service sends it: small, cached, secured and built from its source."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[3]
BUILT = ROOT / "app/api/page"
FIRST_LOAD_BYTES = 300_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("page"), offline=True)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as opened:
        yield opened


def named(page: str) -> list[str]:
    """The files that the document names."""
    return re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page)


def test_the_built_page_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/page.py", "check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_document_is_secured_and_asked_for_again(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    rules = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert rules == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
        "img-src": "'self' data:", "connect-src": "'self'", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", answer.text)
    again = client.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # A browser takes it over into the page that it has kept.
    assert again.headers["content-security-policy"] == answer.headers["content-security-policy"]
    assert client.head("/").headers["etag"] == answer.headers["etag"]


def test_its_files_are_kept_for_ever_under_names_of_their_content(client: TestClient) -> None:
    files = named(client.get("/").text)
    assert {Path(each).suffix for each in files} == {".js", ".css", ".svg"}
    for each in files:
        answer = client.get(f"/{each}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert re.search(r"-[\w-]{8}\.\w+$", each)
        assert answer.content == (BUILT / each).read_bytes()
    plain = client.get(f"/{files[0]}", headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in plain.headers


def test_the_first_load_is_small(client: TestClient) -> None:
    page = client.get("/").text
    # The list of runs, which comes first, is a file of its own that the first script asks for.
    (runs,) = (BUILT / "assets").glob("RunsPage-*.js")
    first = [*(BUILT / each for each in named(page)), runs]
    sizes = [len(gzip.compress(path.read_bytes())) for path in first]
    assert sum(sizes) < FIRST_LOAD_BYTES
    assert client.get("/").headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "path", ["/assets/none.js", "/assets/..%2Findex.html", "/runs", "/v1/none"]
)
def test_other_paths_stay_problems(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_address_that_is_not_this_machine_is_refused(client: TestClient) -> None:
    answer = client.get("/", headers={"Host": "evil.example"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code >= 400
