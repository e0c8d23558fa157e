"""The operations on jobs: submit, list, follow, stop, and what they recorded."""
