"""Slow and obvious twins of what the product computes."""
