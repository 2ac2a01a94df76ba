"""The DuckDB catalogue: tables over all artifacts, and read-only SQL on them."""
