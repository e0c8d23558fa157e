"""Warnings about a dataset that can be used. Each names the first rows that show it."""
