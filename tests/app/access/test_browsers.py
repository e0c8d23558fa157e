"""What a request needs before its body is read, and what web pages of other sites may do."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from tests.support.service.problems import problem
from tests.support.service.services import free_port

HASH = "0" * 64
PAGE = "https://console.example.com"


def api_with(folder: Path, **settings: Any) -> TestClient:
    settings = {"data_dir": folder, "offline": True, **settings}
    return TestClient(create_app(Settings(**settings)), base_url="http://127.0.0.1:8000")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a real server whose keys nobody has."""
    app = create_app(Settings(data_dir=tmp_path, api_key_hashes=HASH))
    port = free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield port
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    "declared", ["Content-Length: 900", f"Content-Length: {1 << 40}", "Transfer-Encoding: chunked"]
)
@pytest.mark.parametrize("path", ["/v1/rankings", "/v1/datasets"])
def test_without_a_key_no_body_is_waited_for(port: int, path: str, declared: str) -> None:
    """Only the head of the request is sent: the answer comes, and the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{declared}"
        connection.sendall(f"{head}\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer.lower()
    assert b'"code":"unauthorized"' in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"Sec-Fetch-Site": "none"}, 200),  # typed into the address bar
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8000"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8000.evil.example"}, 403),
    ],
)
def test_without_keys_other_sites_are_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    with api_with(tmp_path) as api:
        for answer in (
            api.get("/v1/jobs", headers=headers),
            api.post("/v1/jobs/rk_0/cancel", headers=headers),
        ):
            refused = answer.status_code == 403
            assert refused == (status == 403), answer.text
            if refused:
                assert "SURGEON_CORS_ORIGINS" in problem(answer, 403, "cross_site")["detail"]
        assert api.get("/healthz", headers=headers).status_code == 200


def test_cors_is_off_unless_it_is_set_up(tmp_path: Path) -> None:
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    with api_with(tmp_path, api_key_hashes=HASH) as api:
        answer = api.options("/v1/rankings", headers=preflight)
        assert answer.status_code == 401
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("hashes", ["", HASH])
def test_cors_lets_the_pages_in_that_are_named(tmp_path: Path, hashes: str) -> None:
    with api_with(
        tmp_path, cors_origins=f"{PAGE},http://localhost:3000", api_key_hashes=hashes
    ) as api:
        wanted = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,idempotency-key",
        }
        preflight = api.options("/v1/rankings", headers=wanted)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        sent = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
        answer = api.get("/v1/jobs", headers=sent)
        assert answer.status_code == (401 if hashes else 200)
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "RateLimit" in answer.headers["access-control-expose-headers"]
        other = api.get("/v1/jobs", headers={**sent, "Origin": "https://evil.example"})
        assert other.status_code == (401 if hashes else 403)
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("origin", ["*", "console.example.com", "https://a.example/path"])
def test_an_origin_is_one_origin(origin: str) -> None:
    with pytest.raises(ValidationError):
        Settings(cors_origins=origin)


def test_what_is_no_resource_is_not_found(tmp_path: Path) -> None:
    with api_with(tmp_path) as api:
        problem(api.get("/v1/secrets"), 404, "not_found")
