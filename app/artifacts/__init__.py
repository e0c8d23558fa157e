"""Stored folders, on a local disk or in an object store, and how they are read."""
