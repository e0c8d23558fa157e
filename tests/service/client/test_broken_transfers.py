"""Uploads and downloads of the client whose connections break off in the middle."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgeon.client import ApiError, AsyncClient, Client
from tests.support.faults.breaking import Breaking, breaking
from tests.support.models.mirror import TINY
from tests.support.service.services import Running

KEY = re.compile(rb"(?i)\r\nidempotency-key: ([^\r]+)")
RANGE = re.compile(rb"(?i)\r\nrange: ([^\r]+)")


@pytest.fixture
def proxy(embedded_service: Running) -> Iterator[Breaking]:
    with breaking(embedded_service.client.url) as made:
        yield made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of almost a megabyte, whose rows no other test has."""
    path = tmp_path / "train.csv"
    lines = [f"{tmp_path.name} {'fine ' * 60}{n},{n % 2}" for n in range(2500)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def uploaded(kind: str, url: str, rows: Path) -> Any:
    """What a client of this kind is told of its upload."""

    async def awaited() -> Any:
        async with AsyncClient(url) as client:
            return await client.upload(rows, progress=True)

    if kind == "awaited":
        return asyncio.run(awaited())
    with Client(url) as client:
        return client.upload(rows, progress=True)


@pytest.mark.parametrize("kind", ["blocking", "awaited"])
def test_an_upload_that_breaks_off_is_sent_again_as_a_whole(
    kind: str, proxy: Breaking, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.sent = [300_000, 500_000]
    stored = uploaded(kind, proxy.url, rows)
    assert stored.rows["train"] + stored.rows["validation"] == 2500
    keys = [KEY.search(request)[1] for request in proxy.requests]  # type: ignore[index]
    assert len(keys) == 3
    assert len(set(keys)) == 1, "whatever arrived, it is carried out once"
    assert "train.csv: 100 % of" in capsys.readouterr().err


def test_an_upload_that_is_damaged_on_the_way_is_refused(proxy: Breaking, rows: Path) -> None:
    proxy.damage = (b"fine fine", b"fine mine")
    with Client(proxy.url) as client:
        with pytest.raises(ApiError, match=r"upload_damaged.*send it again") as told:
            client.upload(rows)
        assert told.value.problem["errors"][0]["pointer"] == "/train"
        assert told.value.problem["retriable"] is True
        assert client.upload(rows).note is None, "nothing was stored of the first"


def test_an_upload_whose_answer_is_lost_is_stored_once(
    proxy: Breaking, rows: Path, embedded_service: Running
) -> None:
    proxy.received = [0]
    with Client(proxy.url) as client:
        stored = client.upload(rows, name=f"of {rows.parent.name}")
    assert stored.note is None, "the answer is the first one, not that of a second upload"
    listed = embedded_service.client.datasets(name=f"of {rows.parent.name}")
    assert [each["id"] for each in listed] == [stored.id]


def test_a_download_that_breaks_off_goes_on_by_range(
    proxy: Breaking, tmp_path: Path, embedded_service: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"model": TINY, "dataset": "glue/rte", "selection": {"policy": "head_only"}}
    job = embedded_service.run("finetunes", {**body, "training": {"epochs": 1, "max_length": 16}})
    checkpoint = job["result"]["best_checkpoint"]
    embedded_service.client.download(checkpoint, tmp_path / "whole", "full")
    proxy.received = [400_000, 700_000]
    with Client(proxy.url) as client:
        client.download(checkpoint, tmp_path / "broken", "full", progress=True)
    asked = [RANGE.search(request) for request in proxy.requests]
    assert asked[0] is None
    starts = [int(each[1].removeprefix(b"bytes=").rstrip(b"-")) for each in asked[1:] if each]
    assert len(starts) == 2
    assert 0 < starts[0] <= 400_000 < starts[1] <= 1_100_000
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")
    assert f"{checkpoint}: 100 % of" in capsys.readouterr().err


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
