"""Read untrusted CSV, TSV, JSON Lines and Parquet files row by row, within limits."""
