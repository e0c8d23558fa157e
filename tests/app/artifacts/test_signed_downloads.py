"""Downloads of stored files that an object store sends by itself, from an address it signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from app.artifacts.storage import open_storage
from app.errors import Misconfigured
from app.settings import Settings
from tests.support.service.stored import Place, place_in

DELTA = "delta.safetensors"


@pytest.fixture
def place(s3_url: str, tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path, artifacts_url=s3_url, signed_download_seconds=60) as place:
        yield place


def digest_of(place: Place) -> str:
    files = place.api.get(place.path).json()["files"]
    return str(next(file["sha256"] for file in files if file["name"] == DELTA))


def test_the_store_sends_the_file_without_the_key(place: Place) -> None:
    answer = place.api.get(f"{place.path}/files/{DELTA}", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["Cache-Control"] == "no-store"  # the address expires
    sent = httpx2.get(answer.headers["Location"])
    assert sent.status_code == 200
    assert hashlib.sha256(sent.content).hexdigest() == digest_of(place)
    part = httpx2.get(answer.headers["Location"], headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, sent.content[8:16])


def test_what_the_api_knows_itself_it_answers_itself(place: Place) -> None:
    url = f"{place.path}/files/{DELTA}"
    mine = {"If-None-Match": f'"{digest_of(place)}"'}
    assert place.api.get(url, headers=mine, follow_redirects=False).status_code == 304
    assert place.api.get(f"{place.path}/files/other", follow_redirects=False).status_code == 404
    full = place.api.get(f"{place.path}/files/model.safetensors", params={"form": "full"})
    assert full.status_code == 200
    assert place.api.get(f"{place.path}/archive", follow_redirects=False).status_code == 200


def test_a_folder_signs_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, signed_download_seconds=60)
    with pytest.raises(Misconfigured, match="SURGEON_ARTIFACTS_URL"):
        open_storage(settings)
