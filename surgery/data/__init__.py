"""From the name of a dataset, or from uploaded files, to a checked table and its token batches."""
