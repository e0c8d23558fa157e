"""Examples of webhooks, of their deliveries, and of the requests that change them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
MOMENT = "2026-11-23T10:00:00Z"
ID = "wh_01kasz3v7d9q6m8x2c4n5b7t1w"
JOB = "rk_01kasz3v7d9q6m8x2c4n5b7t1w"
URL = "https://hooks.example.com/layer-surgeon"

WEBHOOK_BODIES: Json = {
    "ends": {"summary": "Be told how jobs end", "value": {"url": URL}},
    "some": {
        "summary": "Be told of checkpoints and of failures",
        "value": {
            "url": URL,
            "events": ["checkpoint.created", "job.failed"],
            "description": "the search team's channel",
        },
    },
}
UPDATE_BODIES: Json = {
    "disable": {"summary": "Tell it nothing more", "value": {"enabled": False}},
    "end rotation": {
        "summary": "Sign with the new secret alone from now on",
        "value": {"old_secret_seconds": 0},
    },
}
ROTATE_BODIES: Json = {
    "hour": {
        "summary": "Let the old secret sign for another hour",
        "value": {"old_secret_seconds": 3600},
    }
}
WEBHOOK: Json = {
    "id": ID,
    "url": URL,
    "events": ["job.succeeded", "job.failed", "job.cancelled"],
    "description": "the search team's channel",
    "enabled": True,
    "disabled_reason": None,
    "consecutive_failures": 0,
    "old_secret_expires_at": None,
    "created_at": MOMENT,
    "links": {"self": f"/v1/webhooks/{ID}", "deliveries": f"/v1/webhooks/{ID}/deliveries"},
}
NEW_WEBHOOK: Json = {**WEBHOOK, "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD…"}
WEBHOOKS: Json = {"data": [WEBHOOK], "next_cursor": None, "has_more": False}
PAYLOAD: Json = {
    "type": "job.succeeded",
    "timestamp": MOMENT,
    "data": {
        "id": JOB,
        "kind": "ranking",
        "status": "succeeded",
        "name": None,
        "metadata": {"team": "search"},
        "parent": None,
        "error_code": None,
        "checkpoint": None,
        "links": {"self": f"/v1/jobs/{JOB}", "events": f"/v1/jobs/{JOB}/events"},
    },
}
DELIVERY: Json = {
    "id": "msg_01kasz3v7d9q6m8x2c4n5b7t1x",
    "webhook": ID,
    "type": "job.succeeded",
    "job": JOB,
    "status": "delivered",
    "attempts": [
        {"at": MOMENT, "status": 503, "error": None, "seconds": 0.04, "body": "try later"},
        {"at": MOMENT, "status": 204, "error": None, "seconds": 0.03, "body": ""},
    ],
    "next_attempt_at": None,
    "payload": PAYLOAD,
    "created_at": MOMENT,
    "ended_at": MOMENT,
}
DELIVERIES: Json = {"data": [DELIVERY], "next_cursor": None, "has_more": False}
