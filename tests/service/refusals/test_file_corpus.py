"""Data files and requests of strangers: each a 4xx that names the fault, and nothing is touched.

No file outside the service's own, no socket, no process; and no more than so much memory and time.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.support.corpus.files import FILE_NAMES, FILES, GOOD
from tests.support.corpus.names import NAMES
from tests.support.corpus.watch import Watch
from tests.support.models.mirror import TINY
from tests.support.service.problems import Json, upload

SECONDS = 10.0  # of processor time, for one of them
GROWTH_BYTES = 600 << 20  # of this process, by all of them together
COLUMNS = {"text": "text", "label": "label"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("file-corpus")


@pytest.fixture(scope="module")
def own_api(mirror: Path, data: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=data, mirror_dir=str(mirror), offline=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with TestClient(
        create_app(settings), raise_server_exceptions=False, base_url="http://127.0.0.1"
    ) as client:
        yield client
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < GROWTH_BYTES, f"{grown >> 20} MiB"


@pytest.fixture(scope="module")
def watch(mirror: Path, data: Path) -> Watch:
    """Temporary files of the multipart parser lie in /tmp, without a name."""
    return Watch(mirror, data, Path("/tmp"), Path("/var/tmp"))


def refused(answer: Any) -> Json:
    """The problem of a request that is refused as the sender's fault."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: Json = answer.json()
    assert body["code"] not in {"internal", "http_error"}
    assert body["detail"]
    assert "file-corpus" not in answer.text, "a path of the machine is told"
    return body


def test_there_are_hundreds() -> None:
    assert len(FILES) + len(FILE_NAMES) + 4 * len(NAMES) >= 400
    assert len(FILES) >= 90
    assert len(set(NAMES)) == len(NAMES) >= 80


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_refused(own_api: TestClient, watch: Watch, name: str) -> None:
    called, make = FILES[name]
    content, began = make(), time.process_time()
    with watch.on() as noted:
        body = refused(upload(own_api, content, called))
    # The footer of a Parquet file is read by a process of its own, with limits of its own.
    assert [each for each in noted if "parquet_probe.py" not in each] == []
    assert time.process_time() - began < SECONDS
    assert body["errors"], "it says where"


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_of_an_odd_name_is_stored_elsewhere_or_refused(
    own_api: TestClient, watch: Watch, data: Path, name: str
) -> None:
    rows = GOOD.replace(b"words", repr(name).encode().hex().encode())
    with watch.on() as noted:
        answer = upload(own_api, rows, name)
    assert noted == []
    assert answer.status_code == 201 or refused(answer)
    known = {path.name for path in data.rglob("*") if path.is_file()}
    assert not {each for each in known if "evil" in each or "passwd" in each}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_leads_nowhere(
    own_api: TestClient, watch: Watch, name: str
) -> None:
    good: Json = {"model": TINY, "dataset": "glue/rte"}
    hub = {"hub": name, "columns": COLUMNS}
    with watch.on() as noted:
        own_api.get(f"/v1/models/{quote(name, safe='')}")  # a client may make another path of it
        answers = [
            own_api.post("/v1/rankings", json={**good, "model": name}),
            own_api.post("/v1/rankings", json={**good, "dataset": name}),
            own_api.post("/v1/rankings", json={**good, "dataset": hub}),
            own_api.get("/v1/jobs", params={"model": name, "limit": "x"}),
        ]
    assert noted == []
    for answer in answers:
        assert refused(answer)["code"] != "upstream_unavailable"
    pointers = [[fault.get("pointer", "") for fault in each.json()["errors"]] for each in answers]
    assert all(each.startswith("/model") for each in pointers[0])
    assert all(each.startswith("/dataset") for each in [*pointers[1], *pointers[2]])
