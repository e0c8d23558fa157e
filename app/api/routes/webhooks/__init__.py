"""Webhooks: addresses that are told of what happens to a project's jobs."""
