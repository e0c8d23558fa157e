"""The service: HTTP, the job table, artifacts. Never imports torch."""
