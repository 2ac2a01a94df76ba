"""The catalogue: a DuckDB file with the records of all artifacts, and read-only SQL on it."""
