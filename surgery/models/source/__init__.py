"""From a model id to a checked copy of its files, without importing torch."""
