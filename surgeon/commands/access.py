"""`surgeon keys` and `surgeon projects`: who may use a service, and how much of it."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.client import Client
from surgeon.commands.failures import expected_failures
from surgeon.commands.options import DEFAULT_URL, AsJson, Key, Url
from surgeon.terminal import terminal

Project = Annotated[
    str | None,
    typer.Option(help="Id of another project than the key's own; for the operator only."),
]


def create_key(
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    scope: Annotated[
        str, typer.Option(help="read, submit or admin; each includes the ones before it.")
    ] = "submit",
    days: Annotated[
        float | None, typer.Option(min=0, help="Days until it expires; default: never.")
    ] = None,
    project: Project = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is printed only once; the service keeps its hash."""
    with expected_failures(), Client(url, key) as client:
        made = client.create_key(scope, name=name, days=days, project=project)
    if as_json:
        terminal.show_json(made)
    else:
        terminal.say(f"id   {made['id']}", f"key  {made['key']}")


def list_keys(
    project: Project = None, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False
) -> None:
    """List API keys, newest first. The keys themselves are not known to the service."""
    with expected_failures(), Client(url, key) as client:
        listed = client.keys(project)
    if as_json:
        terminal.show_json(listed)
        return
    for each in listed:
        used = f"last used {each['last_used_at'] or 'never'}"
        facts = (each["id"], each["status"], ", ".join(each["scopes"]), used, each["name"] or "")
        terminal.say("  ".join(facts).rstrip())


def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a key, such as key_….")],
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Revoke an API key for ever."""
    with expected_failures(), Client(url, key) as client:
        client.revoke_key(key_id)
    terminal.say(f"{key_id} is revoked")


def create_project(
    name: Annotated[str, typer.Argument(help="A name that no other project has.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a project. Its first key: surgeon keys create --scope admin --project ID."""
    with expected_failures(), Client(url, key) as client:
        made = client.create_project(name)
    if as_json:
        terminal.show_json(made)
    else:
        terminal.say(made["id"])


def list_projects(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """List projects, newest first."""
    with expected_failures(), Client(url, key) as client:
        listed = client.projects()
    if as_json:
        terminal.show_json(listed)
        return
    for each in listed:
        limits = ", ".join(f"{name} {value:g}" for name, value in each["limits"].items())
        terminal.say("  ".join((each["id"], each["name"], limits)).rstrip())
