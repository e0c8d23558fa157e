"""`surgeon mcp`: the service as tools for agents."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.commands.failures import expected_failures, require
from surgeon.commands.options import DEFAULT_URL, Key, Url
from surgeon.terminal import terminal

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def mcp(
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve streamable HTTP at this address, path /mcp, instead of standard input and "
            "output. The host may be left out: it is 127.0.0.1.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With --http: the name by which other machines reach it. Without one, only "
            "loopback addresses are served. Give it once for each.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Give agents the service as tools, by the Model Context Protocol.

    It asks nobody who they are: whoever reaches it uses the service with its key.
    """
    require("mcp")
    address = None if http is None else _address(http, allow_host or [])
    if address is None and allow_host:
        raise typer.BadParameter("--allow-host goes with --http")
    from surgeon.agents.server import serve_http, serve_stdio

    with expected_failures():
        if address is None:
            serve_stdio(url, key)
        else:
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            line = f"tools of {url} for agents at http://{host}:{address[1]}/mcp"
            terminal.errors.print(line, highlight=False)
            serve_http(url, key, *address, allow_host or [])


def _address(text: str, names: list[str]) -> tuple[str, int]:
    """The host and the port to listen on. Raises BadParameter for other machines' unasked."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise typer.BadParameter(f"--http takes HOST:PORT, such as 127.0.0.1:8765, not {text!r}")
    if host not in LOOPBACK and not names:
        raise typer.BadParameter(
            f"--http {text}: other machines may reach this address, and whoever does uses the "
            "service with this command's key; if that is meant, name the host by which they reach "
            "it with --allow-host"
        )
    return host, int(port)
