"""The log has one line a message, whatever a request put into it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.process.logs import FORMAT, LONGEST, OneLine, one_line, set_up_log
from app.settings import Settings

FORGED = "2026-01-01 00:00:00,000 INFO surgeon.api GET /forged 200"
ODD = [
    f"a\n{FORGED}", f"a\r{FORGED}", f"a\u2028{FORGED}", f"a\u2029{FORGED}", f"a\x85{FORGED}",
    "a\x1b[2K\x1b[1A", "a\x08\x08", "a\u202eb", "a\ufeffb", "a\x9b31m", "a\ud800b", "a\0b",
]  # fmt: skip


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """What a handler prints that is set up as in every process."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(FORMAT))
    root.addHandler(handler)
    set_up_log("INFO")
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def checked(stream: io.StringIO, lines: int) -> list[str]:
    text = stream.getvalue()
    assert text.isprintable() or set(text) - set("\n") == {c for c in text if c.isprintable()}
    assert len(text.splitlines()) == text.count("\n") == lines
    return text.splitlines()


@pytest.mark.parametrize("odd", ODD)
def test_a_message_is_one_line(odd: str, printed: io.StringIO) -> None:
    logging.getLogger("surgeon.api").warning("%s %s", "GET", odd)
    logging.getLogger("any.other").warning(odd.replace("%", ""))
    for line in checked(printed, 2):
        assert not line.startswith(FORGED)


def test_a_long_message_is_cut(printed: io.StringIO) -> None:
    logging.getLogger("surgeon.api").warning("%s", "x" * 100_000)
    [line] = checked(printed, 1)
    assert len(line) < LONGEST + 200
    assert "100,000 characters" in line


def test_no_line_of_a_traceback_looks_like_a_message(printed: io.StringIO) -> None:
    try:
        raise ValueError(f"bad\n{FORGED}\x1b[2K")
    except ValueError:
        logging.getLogger("surgeon.api").exception("it failed")
    lines = printed.getvalue().splitlines()
    assert lines[0].endswith("it failed")
    assert all(line.startswith("| ") for line in lines[1:])
    assert any(FORGED in line for line in lines)
    assert "\x1b" not in printed.getvalue()


def test_no_request_forges_a_line(printed: io.StringIO, tmp_path: Path) -> None:
    with TestClient(
        create_app(Settings(data_dir=tmp_path, offline=True)), base_url="http://127.0.0.1"
    ) as api:
        for odd in ("a%0a", "a%0d%0a", "a%e2%80%a8", "a%1b[2K", "a%00", "x" * 5000):
            api.get(f"/v1/jobs/{odd}{FORGED.replace(' ', '%20')}", headers={"x-request-id": "a\tb"})
            api.get("/v1/models/" + odd)
    lines = [line for line in printed.getvalue().splitlines() if "surgeon.api" in line]
    assert len(lines) == len(printed.getvalue().splitlines()) == 12
    assert not any(line.startswith(FORGED) for line in lines)


def test_setting_up_twice_filters_once(printed: io.StringIO) -> None:
    set_up_log("INFO")
    for handler in logging.getLogger().handlers:
        assert [type(each) for each in handler.filters].count(OneLine) == 1
    assert one_line("plain – text é😀") == "plain – text é😀"
