"""Turns requests into queued jobs, and into answers about jobs that could be queued."""
