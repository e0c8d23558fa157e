"""Which columns of a table are read as what."""
