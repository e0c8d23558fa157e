"""Scores of layers by several methods, rankings by these scores, and selections of layers."""
