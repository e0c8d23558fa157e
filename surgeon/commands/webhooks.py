"""`surgeon webhooks`: create, list, test and delete webhooks."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.client import Client
from surgeon.commands.failures import ExitCode, expected_failures
from surgeon.commands.options import DEFAULT_URL, AsJson, Key, Url
from surgeon.terminal import terminal

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="Id of a webhook, such as wh_….")]


def create(
    target: Annotated[str, typer.Argument(metavar="URL", help="Where events are sent.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="A type of event to be told of. Give it once for each; default: ends."),
    ] = None,
    description: Annotated[str | None, typer.Option(help="A note for people.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Create a webhook. Its secret is printed only once."""
    with expected_failures(), Client(url, key) as client:
        made = client.create_webhook(target, event, description)
    if as_json:
        terminal.show_json(made)
    else:
        terminal.say(f"id      {made['id']}", f"secret  {made['secret']}")


def list_webhooks(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """List webhooks, newest first."""
    with expected_failures(), Client(url, key) as client:
        listed = client.webhooks()
    if as_json:
        terminal.show_json(listed)
        return
    for hook in listed:
        state = "enabled" if hook["enabled"] else "disabled"
        if hook["disabled_reason"]:
            state += f" ({hook['disabled_reason']})"
        elif hook["consecutive_failures"]:
            state += f", {hook['consecutive_failures']} failures in a row"
        terminal.say(f"{hook['id']}  {hook['url']}  {', '.join(hook['events'])}  {state}")


def delete(webhook_id: WebhookId, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Delete a webhook and its log."""
    with expected_failures(), Client(url, key) as client:
        client.delete_webhook(webhook_id)
    terminal.say(f"{webhook_id} is deleted")


def send_test(
    webhook_id: WebhookId, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False
) -> None:
    """Send a test event and wait for the answer. Exits with code 1 unless it was delivered."""
    with expected_failures(), Client(url, key) as client:
        sent = client.test_webhook(webhook_id)
    if as_json:
        terminal.show_json(sent)
    elif not sent["attempts"]:
        terminal.say("no attempt was made yet: is a worker running?")
    else:
        last = sent["attempts"][-1]
        outcome = last["error"] or f"answered {last['status']}"
        terminal.say(f"{sent['id']} {sent['status']}: {outcome} after {last['seconds']:g} s")
    if sent["status"] != "delivered":
        raise typer.Exit(ExitCode.FAILED)
