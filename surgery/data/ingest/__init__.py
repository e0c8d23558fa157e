"""Turn rows into a stored dataset: infer the columns, check every row, report its faults."""
