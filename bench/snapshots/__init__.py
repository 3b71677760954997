"""A table of the shop against its history: read, compare and append, beside DuckDB, ClickHouse SQL and pandas."""
