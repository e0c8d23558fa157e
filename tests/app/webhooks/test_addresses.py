"""Where webhooks may be: tricks that would make the service reach what only it can reach."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from app.jobs.webhooks import sender
from app.jobs.webhooks.addresses import Blocked, checked_url, is_public, resolve
from app.jobs.webhooks.sender import send
from tests.support.outside.receiver import receiver

NETWORKS = [ip_network("127.0.0.0/8")]

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2001:10::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "4000::1",
    "8000::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/", "HTTP://hooks.example.com/", "ftp://hooks.example.com/",
        "file:///etc/passwd", "gopher://hooks.example.com/", "javascript:alert(1)", "//example.com/",
        "hooks.example.com", "https://", "https:///path", "https://:443/", "https://.example.com@/",
        "https://user@hooks.example.com/", "https://user:pass@hooks.example.com/",
        "https://hooks.example.com@127.0.0.1/", "https://127.0.0.1\\@hooks.example.com/",
        "https://hooks.example.com#@127.0.0.1/", "https://hooks.example.com/#", "https://[::1/",
        "https://127.0.0.1/", "https://127.0.0.1./", "https://127.1/", "https://127.0.1/",
        "https://2130706433/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://0177.0.0.1/",
        "https://0/", "https://0.0.0.0/", "https://[::]/", "https://[::1]/",
        "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[64:ff9b::7f00:1]/",
        "https://[fe80::1%25eth0]/", "https://[fe80::1]/", "https://[fd00:ec2::254]/",
        "https://169.254.169.254/latest/meta-data/", "https://10.0.0.1:8443/", "https://192.168.1.1/",
        "https://localhost/", "https://LOCALHOST/", "https://localhost./", "https://a.localhost/",
        "https://redis/", "https://redis:6379/", "https://metadata.google.internal/",
        "https://printer.local/", "https://router.lan/", "https://nas.home.arpa/",
        "https://hooks.example.com:0/", "https://hooks.example.com:65536/", "https://a:b/",
        "https://hooks.example.com/a b", "https://hooks.example.com/\r\nHost: x", "https://ho\0st/",
        "https://hooks.example.com/\t", " https://hooks.example.com/", "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
        "https://127。0。0。1/", "https://exa%6dple.com/", "https://exam_ple$.com/",
        f"https://hooks.example.com/{'a' * 2000}", f"https://{'a.' * 127}com/",
    ],
)  # fmt: skip
def test_urls_that_are_refused_by_their_form(url: str) -> None:
    with pytest.raises(Blocked):
        checked_url(url, [])


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com", "https://hooks.example.com:8443/a/b?c=d%20e", "https://8.8.8.8/",
        "https://xn--bcher-kva.example/", "https://[2606:4700:4700::1111]/", "HTTPS://Example.COM/",
        "https://hooks.example.com./", "https://h_1.example.com/",
    ],
)  # fmt: skip
def test_urls_that_are_accepted(url: str) -> None:
    assert checked_url(url, []) == url


def test_private_networks_are_reached_only_where_they_are_allowed() -> None:
    for url in (
        "http://127.0.0.1:9000/",
        "http://localhost/",
        "http://redis/",
        "https://10.0.0.1/",
    ):
        with pytest.raises(Blocked):
            checked_url(url, [])
    for url in (
        "http://127.0.0.1:9000/",
        "https://127.0.0.1/",
        "http://localhost/",
        "http://hook/",
    ):
        assert checked_url(url, NETWORKS) == url
    for url in ("http://10.0.0.1/", "https://169.254.169.254/", "ftp://127.0.0.1/"):
        with pytest.raises(Blocked):
            checked_url(url, NETWORKS)


class Names:
    """A resolver whose names resolve to what a test says, at each look anew."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        try:
            addresses = [str(ip_address(host))]  # a literal address needs no resolver
        except ValueError:
            addresses = self.answers[min(self.asked, len(self.answers) - 1)]
            self.asked += 1
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        kind = socket.SOCK_STREAM
        return [
            (families[ip_address(each.partition("%")[0]).version], kind, 6, "", (each, port))
            for each in addresses
        ]


@pytest.mark.parametrize("address", [*NOT_PUBLIC, "fe80::1%eth0"])
def test_a_name_of_a_private_address_is_never_connected_to(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names([address]))
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    answer = send("https://hooks.example.com/", "msg_1", "{}", ["whsec_AAAA"], [])
    assert answer.status is None
    assert "not a public address" in (answer.error or "")


def _no_connection(*_: object) -> None:
    raise AssertionError("a connection was opened")


def test_one_private_address_among_public_ones_refuses_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["8.8.8.8", "127.0.0.1"]))
    with pytest.raises(Blocked, match=r"127\.0\.0\.1"):
        resolve("hooks.example.com", 443, [], encrypted=True)


def test_a_name_that_changes_after_the_check_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to."""
    with receiver() as hook, receiver() as secret_service:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        monkeypatch.setattr(socket, "getaddrinfo", names)
        url = f"http://rebinding.example.com:{hook.port}/"
        answer = send(url, "msg_1", "{}", ["whsec_AAAA"], NETWORKS)
        assert answer.status == 204
        assert names.asked == 1
        assert hook.received[0].headers["host"] == f"rebinding.example.com:{hook.port}"
        assert secret_service.received == []


def test_without_encryption_no_public_address_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["8.8.8.8"]))
    with pytest.raises(Blocked, match="https"):
        resolve("hooks.example.com", 80, NETWORKS, encrypted=False)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[trustme.CA]:
    """A certificate authority that the operator of the service trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    sender._tls.cache_clear()
    yield made
    sender._tls.cache_clear()


def test_the_certificate_must_be_of_the_name_and_not_of_the_address(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example.com").configure_cert(context)
    with receiver(context) as hook:
        answers = [
            send(f"https://{name}:{hook.port}/", "msg_1", "{}", ["whsec_AAAA"], NETWORKS)
            for name in ("hooks.example.com", "other.example.com")
        ]
    assert [answer.status for answer in answers] == [204, None]
    assert "certificate" in (answers[1].error or "")
    assert len(hook.received) == 1


def test_redirects_and_proxies_of_the_environment_are_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with receiver() as hook, receiver() as elsewhere:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, elsewhere.url)
        hook.will_answer(302, 307, location=elsewhere.url)
        for status in (302, 307):
            answer = send(hook.url, "msg_1", "{}", ["whsec_AAAA"], NETWORKS)
            assert (answer.status, answer.delivered) == (status, False)
        assert len(hook.received) == 2
        assert elsewhere.received == []


def test_only_the_beginning_of_an_answer_is_kept() -> None:
    with receiver() as hook:
        hook.will_answer(200, body=b"a\0" * 5_000_000)
        answer = send(hook.url, "msg_1", "{}", ["whsec_AAAA"], NETWORKS)
        assert answer.delivered
        assert answer.body == "a\N{REPLACEMENT CHARACTER}" * 500


def _trickle(server: socket.socket, stopped: threading.Event) -> None:
    connection, _ = server.accept()
    with connection, suppress(OSError):
        while not stopped.wait(0.05):
            connection.sendall(b"H")


def test_an_answer_that_trickles_in_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte arrives in time, all of them together do not."""
    monkeypatch.setattr(sender, "TIMEOUT_SECONDS", 1.0)
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_trickle, args=(server, stopped))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        answer = send(url, "msg_1", "{}", ["whsec_AAAA"], NETWORKS)
        stopped.set()
        thread.join()
    assert (answer.status, answer.error) == (None, "no answer within 1 seconds")
