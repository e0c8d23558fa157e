"""Examples of requests and answers about projects, keys, limits, usage and the audit log."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
MOMENT = "2026-11-23T10:00:00Z"
PROJECT: Json = {
    "id": "pr_01kasz3v7d9q6m8x2c4n5b7t1w",
    "name": "search",
    "limits": {"queued_jobs": 20},
    "created_at": MOMENT,
}
PROJECTS: Json = {"data": [PROJECT], "next_cursor": None, "has_more": False}
PROJECT_BODIES: Json = {
    "shortest": {"summary": "A project with the service's limits", "value": {"name": "search"}},
    "limits": {
        "summary": "A project with limits of its own",
        "value": {"name": "search", "limits": {"queued_jobs": 20, "stored_bytes": 50_000_000_000}},
    },
}
PROJECT_CHANGES: Json = {
    "limits": {
        "summary": "Change one limit, and give another back to the service",
        "value": {"limits": {"running_jobs": 4, "queued_jobs": None}},
    },
    "name": {"summary": "Rename", "value": {"name": "search-team"}},
}
KEY: Json = {
    "id": "key_01kasz3v7d9q6m8x2c4n5b7t1w",
    "project": PROJECT["id"],
    "name": "ci",
    "scopes": ["submit"],
    "status": "active",
    "created_at": MOMENT,
    "expires_at": "2027-02-21T10:00:00Z",
    "last_used_at": None,
    "revoked_at": None,
}
NEW_KEY: Json = {**KEY, "key": "sk_01kasz3v7d9q6m8x2c4n5b7t1w_…"}
KEYS: Json = {"data": [KEY], "next_cursor": None, "has_more": False}
KEY_BODIES: Json = {
    "for a program": {
        "summary": "A key that may submit jobs, for 90 days",
        "value": {"name": "ci", "scopes": ["submit"], "expires_in_days": 90},
    },
    "for another project": {
        "summary": "The first key of a new project, made by the service's operator",
        "value": {"name": "search", "scopes": ["admin"], "project": PROJECT["id"]},
    },
}
AUDIT: Json = {
    "data": [
        {
            "seq": 17,
            "actor": "key_01kasz3v7d9q6m8x2c4n5b7t1w",
            "action": "revoke_key",
            "target": "key_01kasy9m2b8q6m8x2c4n5b7t1w",
            "request_id": "1f8c0e9f7d8b4c5f9a7e6d5c4b3a2918",
            "data": {"method": "DELETE", "path": "/v1/keys/key_01kasy9m2b8q6m8x2c4n5b7t1w"},
            "at": MOMENT,
        }
    ],
    "next_cursor": None,
    "has_more": False,
}
LIMITS: Json = {
    "project": PROJECT["id"],
    "requests_per_minute": {
        "limit": 600,
        "used": 2,
        "remaining": 598,
        "frees": "a request frees every 0.1 s",
    },
    "queued_jobs": {
        "limit": 20,
        "used": 3,
        "remaining": 17,
        "frees": "room frees as jobs start or are cancelled",
    },
    "running_jobs": {
        "limit": None,
        "used": 1,
        "remaining": None,
        "frees": "room frees as jobs end; the others wait in the queue",
    },
    "device_hours_per_month": {
        "limit": 100,
        "used": 12.5,
        "remaining": 87.5,
        "frees": "it frees with the next month, at 2026-12-01 00:00 UTC",
    },
    "stored_bytes": {
        "limit": 50_000_000_000,
        "used": 1_200_000_000,
        "remaining": 48_800_000_000,
        "frees": "room frees as datasets, checkpoints and jobs are deleted",
    },
}
USAGE: Json = {
    "project": PROJECT["id"],
    "from": "2026-11-01",
    "to": "2026-12-01",
    "by": "month",
    "data": [
        {
            "period": "2026-11",
            "kind": "finetune",
            "jobs": 12,
            "worker_seconds": {"NVIDIA A10": 4321.5},
            "stored_bytes": 1_200_000_000,
        }
    ],
    "total": {"jobs": 12, "worker_seconds": {"NVIDIA A10": 4321.5}, "stored_bytes": 1_200_000_000},
}
