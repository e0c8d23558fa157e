"""Signs and sends one delivery, as the Standard Webhooks specification says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore2

from app.jobs.webhooks.addresses import Blocked, resolve
from app.settings import Network
from surgery import __version__

TIMEOUT_SECONDS = 10.0  # for a whole delivery, however slowly an answer trickles in
KEPT_BYTES = 1000  # of an answer's body


@dataclass(frozen=True)
class Answer:
    """What became of one attempt: the status of the answer, or why there was none."""

    status: int | None = None
    error: str | None = None
    body: str = ""
    seconds: float = 0.0

    @property
    def delivered(self) -> bool:
        """Whether the receiver took the delivery."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more deliveries."""
        return self.status == 410


def signature(secrets: Iterable[str], message_id: str, timestamp: int, body: str) -> str:
    """The header ``webhook-signature``: one signature for each secret, with spaces between."""
    signed = f"{message_id}.{timestamp}.{body}".encode()
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    digests = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def send(
    url: str, message_id: str, body: str, secrets: Sequence[str], networks: Sequence[Network]
) -> Answer:
    """Send a delivery once, without following redirects and without a proxy. Never raises."""
    timestamp = int(time.time())
    headers: dict[bytes | str, bytes | str] = {
        "Content-Type": "application/json",
        "User-Agent": f"Layer-Surgeon/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secrets, message_id, timestamp, body),
    }
    began = time.monotonic()
    network = CheckedNetwork(networks, url.startswith("https:"), began + TIMEOUT_SECONDS)
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)
    try:
        with (
            httpcore2.ConnectionPool(_tls(), network_backend=network) as pool,
            pool.stream(
                "POST",
                url,
                headers=headers,
                content=body.encode(),
                extensions={"timeout": timeouts},
            ) as answer,
        ):
            start = _beginning(answer)
            return Answer(answer.status, None, start, round(time.monotonic() - began, 3))
    except Blocked as error:
        why = str(error)
    except httpcore2.TimeoutException:
        why = f"no answer within {TIMEOUT_SECONDS:g} seconds"
    except (
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.UnsupportedProtocol,
        OSError,
        ValueError,
    ) as error:
        why = f"{type(error).__name__}: {error}"[:300]
    return Answer(error=why, seconds=round(time.monotonic() - began, 3))


def _beginning(answer: httpcore2.Response) -> str:
    """The first bytes of an answer's body; the rest is not read."""
    start = b""
    try:
        for chunk in answer.iter_stream():
            start += chunk
            if len(start) >= KEPT_BYTES:
                break
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError):
        pass  # the status has arrived, and it alone decides
    return start[:KEPT_BYTES].decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


@cache
def _tls() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


class CheckedNetwork(httpcore2.NetworkBackend):
    """Opens connections to addresses that were checked, and keeps a deadline.

    A name is resolved once, and the connection goes to the very address that was checked, so that
    a name cannot resolve to another one in between. TLS still verifies the name.
    """

    def __init__(self, networks: Sequence[Network], encrypted: bool, deadline: float) -> None:
        self._networks, self._encrypted, self._deadline = networks, encrypted, deadline
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the deadline holds for everything
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of the host that answers. Raises Blocked."""
        try:
            addresses = resolve(host, port, self._networks, encrypted=self._encrypted)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} cannot be resolved: {error.strerror}") from error
        failed: httpcore2.NetworkError = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            left = _left(self._deadline, httpcore2.ConnectTimeout)
            try:
                stream = self._inner.connect_tcp(
                    str(address), port, left, local_address, socket_options
                )
            except httpcore2.ConnectError as error:
                failed = error
            else:
                return _TimedStream(stream, self._deadline)
        raise failed


class _TimedStream(httpcore2.NetworkStream):
    """A connection whose reads and writes all end by one deadline."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, _left(self._deadline, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._inner.write(buffer, _left(self._deadline, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        left = _left(self._deadline, httpcore2.ConnectTimeout)
        return _TimedStream(
            self._inner.start_tls(ssl_context, server_hostname, left), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(deadline: float, error: type[httpcore2.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise error
    return left
