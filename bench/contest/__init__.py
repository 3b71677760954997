"""Compares Carat, SQL in the same engine and DuckDB on a day's calls that arrive in files, from file to published."""
