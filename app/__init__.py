"""Carat: a shop's API calls and database, turned every hour into a ClickHouse warehouse."""

__version__ = "0.1.0"

# Bump when a frame's result changes for the same input: days built by an older version are then stale.
TRANSFORM_VERSION = 7
