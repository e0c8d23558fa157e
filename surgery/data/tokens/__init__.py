"""Turn a stored dataset into batches of tokens; the only part of the data that needs torch."""
