"""Frozen blocks below the lowest trained layer run once a row; their outputs are kept."""
