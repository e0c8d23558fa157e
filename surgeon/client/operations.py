"""What operators ask of a service, as flows: keys, projects and webhooks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from surgeon.client.calls import POLL_SECONDS, Service, call, listed
from surgeon.client.steps import Flow, sleep

Json = dict[str, Any]


def create_key(
    service: Service,
    scope: str,
    *,
    name: str | None = None,
    days: float | None = None,
    project: str | None = None,
) -> Flow[Json]:
    """Make an API key, which expires after some ``days``; the answer holds the key."""
    wanted = {"name": name, "expires_in_days": days, "project": project}
    body = {field: value for field, value in wanted.items() if value is not None}
    return (yield from call(service, "POST", "/v1/keys", json={**body, "scopes": [scope]}))


def keys(service: Service, project: str | None = None) -> Flow[list[Json]]:
    """The API keys of a project, by default of the key's own, newest first."""
    return (yield from listed(service, "/v1/keys", {"project": project} if project else {}))


def revoke_key(service: Service, key_id: str) -> Flow[None]:
    """Revoke an API key for ever."""
    yield from call(service, "DELETE", f"/v1/keys/{key_id}")


def create_project(service: Service, name: str, limits: Json | None = None) -> Flow[Json]:
    """Make a project, with limits that differ from the service's if there are any."""
    body = {"name": name, "limits": limits or {}}
    return (yield from call(service, "POST", "/v1/projects", json=body))


def projects(service: Service) -> Flow[list[Json]]:
    """Every project that the key may see, newest first."""
    return (yield from listed(service, "/v1/projects", {}))


def create_webhook(
    service: Service,
    url: str,
    events: Sequence[str] | None = None,
    description: str | None = None,
) -> Flow[Json]:
    """Create a webhook; the answer holds its secret. Without ``events``, the ends of jobs."""
    body: Json = {"url": url, "description": description}
    if events:
        body["events"] = list(events)
    return (yield from call(service, "POST", "/v1/webhooks", json=body))


def webhooks(service: Service) -> Flow[list[Json]]:
    """Every webhook, newest first."""
    return (yield from listed(service, "/v1/webhooks", {}))


def delete_webhook(service: Service, webhook_id: str) -> Flow[None]:
    """Delete a webhook and its log."""
    yield from call(service, "DELETE", f"/v1/webhooks/{webhook_id}")


def send_test_event(service: Service, webhook_id: str, seconds: float = 30.0) -> Flow[Json]:
    """Send a test event, and wait ``seconds`` at most for the first attempt to end."""
    sent = yield from call(service, "POST", f"/v1/webhooks/{webhook_id}/test")
    deadline = time.monotonic() + seconds
    while not sent["attempts"] and time.monotonic() < deadline:
        yield from sleep(POLL_SECONDS)
        path = f"/v1/webhooks/{webhook_id}/deliveries/{sent['id']}"
        sent = yield from call(service, "GET", path)
    return sent
