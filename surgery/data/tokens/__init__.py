"""From a stored dataset to token batches; the part of the data that needs torch."""
