"""From rows to a stored dataset: infer the columns, check every row, report what was found."""
