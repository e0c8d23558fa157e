"""Artifacts: stored folders of files, on a local disk or in an object store."""
