"""Files from strangers, read row by row within limits: CSV, TSV, JSON Lines and Parquet."""
