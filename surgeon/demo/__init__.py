"""A tour of the service on a dataset that it generates."""
