"""Which addresses a webhook may have.

A webhook makes this service send requests to an address that a user chose. Without these checks it
could reach what only this machine can reach: other services of a private network, or a cloud's
metadata. A URL is checked by its form when the webhook is created, and the addresses that its name
resolves to are checked at every delivery, because a name can resolve to anything at any time.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from urllib.parse import urlsplit

from app.settings import Network

Address = IPv4Address | IPv6Address
MAX_URL = 2000

# Public by their number, but not other people's machines.
SPECIAL = [
    IPv4Network("168.63.129.16/32"),  # Azure: the host of a virtual machine
    IPv4Network("192.0.0.0/24"),  # IETF protocols; Oracle Cloud has its metadata here
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
]
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
SPECIAL_IPV6 = [
    IPv6Network("2001::/23"),  # IETF protocols; Teredo, whose addresses hold IPv4 addresses
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4, whose addresses hold IPv4 addresses
    IPv6Network("3fff::/20"),  # documentation
]
LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa")


class Blocked(Exception):
    """The webhook's address may not be reached; the message says why."""


def checked_url(url: str, networks: Sequence[Network]) -> str:
    """The URL of a webhook if its form is allowed, without resolving its name. Raises Blocked."""
    if len(url) > MAX_URL:
        raise Blocked(f"the URL is longer than {MAX_URL:,} characters")
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise Blocked("a URL holds no spaces, backslashes or non-ASCII characters; encode them")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise Blocked("this is no URL") from None
    schemes = ("https", "http") if networks else ("https",)
    if parts.scheme not in schemes:
        allowed = " or ".join(f"{scheme}://" for scheme in schemes)
        raise Blocked(f"the URL must begin with {allowed}")
    if "@" in parts.netloc:
        raise Blocked("a URL with a user name or a password is not accepted")
    if parts.fragment or url.endswith("#"):
        raise Blocked("a URL with a fragment (#…) is not accepted")
    if port == 0:
        raise Blocked("there is no port 0")
    _check_host(host, networks)
    return url


def _check_host(host: str, networks: Sequence[Network]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", host) or len(host) > 253:
        raise Blocked("the URL has no usable host name")
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        check_address(address, networks)
        return
    last = host.rpartition(".")[2].lower()
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last):
        raise Blocked(f"write the address {host} as four decimal numbers")  # 127.1, 0x7f000001
    if not networks and (
        "." not in host or any(f".{host.lower()}".endswith(f".{name}") for name in LOCAL_NAMES)
    ):
        raise Blocked(f"{host} is a name of a private network")


def check_address(address: Address, networks: Sequence[Network]) -> None:
    """Raises Blocked unless an address is public or lies in one of the allowed networks."""
    if not is_public(address) and not is_within(address, networks):
        raise Blocked(
            f"{address} is not a public address; webhooks reach others only if "
            "SURGEON_WEBHOOK_NETWORKS allows their network"
        )


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of the networks."""
    inner = _inner(address)
    return any(
        each.version == network.version and each in network
        for network in networks
        for each in {address, inner}
    )


def is_public(address: Address) -> bool:
    """Whether an address is that of a machine in the public internet."""
    inner = _inner(address)
    if isinstance(inner, IPv4Address):
        special = any(inner in network for network in SPECIAL)
        return inner.is_global and not (inner.is_multicast or inner.is_reserved or special)
    special = any(inner in network for network in SPECIAL_IPV6)
    return inner in GLOBAL_UNICAST and inner.is_global and not special


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does (mapped, or through NAT64)."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


def resolve(host: str, port: int, networks: Sequence[Network], *, encrypted: bool) -> list[Address]:
    """The addresses of a host, each of them allowed. Raises Blocked or OSError.

    One address that is not allowed refuses them all. Without encryption only the allowed private
    networks are reached.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Blocked(f"{host} is no host name") from None
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in dict.fromkeys(addresses):
        check_address(address, networks)
        if not encrypted and not is_within(address, networks):
            raise Blocked(f"{address} is a public address, which is reached by https:// only")
    return list(dict.fromkeys(addresses))
