"""Which run comes next, when a search stops, and what it may conclude; nothing here trains."""
