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
            "data": {"status": 204},
            "at": MOMENT,
        }
    ],
    "next_cursor": None,
    "has_more": False,
}
