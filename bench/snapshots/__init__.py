"""Compares snapshots of a table (read, compare, append) with DuckDB, ClickHouse SQL and pandas."""
