"""DuckDB: files by read_ndjson, then the day again, or its touched visitors alone, into tables of a DuckDB file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from bench.contest.contender import Running
from bench.duckdb_sql import STATEMENTS, TABLES, VISITOR, read_outcome

_FIELDS = dict.fromkeys(
    ("method", "endpoint", "call_id", "visitor_id", "session_token", "user_id", "ip", "user_agent", "referrer",
     "page_url"),
    "VARCHAR",
) | {
    "ts": "TIMESTAMPTZ", "status": "USMALLINT", "duration_ms": "UINTEGER", "request": "JSON", "response": "JSON",
}  # fmt: skip
_COLUMNS = ", ".join(f"{name}: '{type_}'" for name, type_ in _FIELDS.items())
_READ = f"""SELECT * REPLACE (request::VARCHAR AS request, response::VARCHAR AS response)
FROM read_ndjson('{{file}}', columns = {{{{{_COLUMNS}}}}})"""
_HELPERS = ("calls", "pages", "actions")


@contextmanager
def whole_day(folder: Path) -> Iterator[Running]:
    with _database(folder) as connection:
        connection.execute("CREATE VIEW api_calls AS SELECT * FROM raw")

        def take(_: int, file: Path) -> None:
            connection.execute(f"INSERT INTO raw BY NAME {_READ.format(file=file)}")
            _make(connection)
            connection.execute("CHECKPOINT")

        yield Running(take, lambda sessions: read_outcome(connection, sessions))


@contextmanager
def touched(folder: Path) -> Iterator[Running]:
    with _database(folder) as connection:
        connection.execute("CREATE SCHEMA touched")
        connection.execute("CREATE TEMP TABLE arrived AS SELECT * FROM raw")
        connection.execute(
            f"CREATE VIEW touched.api_calls AS SELECT * FROM main.raw "
            f"WHERE {VISITOR} IN (SELECT {VISITOR} FROM arrived)"
        )

        def take(number: int, file: Path) -> None:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE arrived AS {_READ.format(file=file)}")
            connection.execute("INSERT INTO main.raw BY NAME SELECT * FROM arrived")
            connection.execute("USE touched")
            _make(connection)
            connection.execute("USE main")
            for table in TABLES:
                if number:
                    connection.execute(
                        f"DELETE FROM {table} WHERE visitor_id IN (SELECT visitor_id FROM touched.sessions)"
                    )
                    connection.execute(f"INSERT INTO {table} SELECT * FROM touched.{table}")
                else:
                    connection.execute(f"CREATE TABLE {table} AS SELECT * FROM touched.{table}")
            connection.execute("CHECKPOINT")

        yield Running(take, lambda sessions: read_outcome(connection, sessions))


@contextmanager
def _database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(folder / "duckdb.db")) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")  # less memory, and no order is asked for
        connection.execute(f"CREATE TABLE raw ({', '.join(f'{name} {type_}' for name, type_ in _stored().items())})")
        yield connection


def _stored() -> dict[str, str]:
    return {name: type_.replace("JSON", "VARCHAR") for name, type_ in _FIELDS.items()}


def _make(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the four tables in the schema in use, from the beginning."""
    for name in _HELPERS:
        connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
    for name in TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    for statement in STATEMENTS:
        connection.execute(statement)
