"""Datasets: how their columns are read, and how rows look to a model."""
