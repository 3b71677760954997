"""SQL in the engine that Carat uses: files by JSONEachRow, then the day again, or its touched visitors alone.

`touched` makes the four tables of the visitors who have calls in the file, and puts them in place of these visitors'
rows: a visitor's sessions depend on nobody else's calls.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.contracts import API_CALLS
from app.warehouse import Warehouse, migrate, open_warehouse
from bench.contest.carat import settings_in
from bench.contest.contender import Running
from bench.engine_sql import OF_DAY, STATEMENTS, TABLES, read_outcome

_FIELDS = (
    "ts DateTime64(3, \\'UTC\\'), method String, endpoint String, call_id UUID, visitor_id String, "
    "session_token String, user_id String, status UInt16, duration_ms UInt32, ip String, user_agent String, "
    "referrer String, page_url String, request String, response String"
)
_OF_TOUCHED = f"{OF_DAY} AND visitor_hash IN (SELECT visitor_hash FROM touched.visitors)"


@contextmanager
def whole_day(folder: Path) -> Iterator[Running]:
    with _warehouse(folder) as warehouse:

        def take(number: int, file: Path) -> None:
            _load(warehouse, file, number)
            _make(warehouse, "plain", STATEMENTS)

        yield Running(take, lambda sessions: read_outcome(warehouse, sessions, database="plain"))


@contextmanager
def touched(folder: Path) -> Iterator[Running]:
    statements = [text.replace("plain.", "touched.").replace(OF_DAY, _OF_TOUCHED) for text in STATEMENTS]
    with _warehouse(folder) as warehouse:
        warehouse.command("CREATE DATABASE plain")
        for table in TABLES:
            warehouse.command(table.create_statement(name=f"plain.{table.name}"))

        def take(number: int, file: Path) -> None:
            _load(warehouse, file, number)
            _make(warehouse, "touched", statements, visitors=f"received_at = {_moment(number)}")
            for table in TABLES:
                warehouse.command(
                    f"DELETE FROM plain.{table.name} WHERE visitor_id IN (SELECT visitor_id FROM touched.sessions)"
                )
                warehouse.command(f"INSERT INTO plain.{table.name} SELECT * FROM touched.{table.name}")

        yield Running(take, lambda sessions: read_outcome(warehouse, sessions, database="plain"))


@contextmanager
def _warehouse(folder: Path) -> Iterator[Warehouse]:
    settings = settings_in(folder)
    with open_warehouse(settings, purpose="bench") as warehouse:
        migrate(warehouse, settings)
        yield warehouse


def _moment(number: int) -> str:
    return f"toDateTime64('2026-06-01 00:00:00', 3, 'UTC') + INTERVAL {number} HOUR"


def _load(warehouse: Warehouse, file: Path, number: int) -> None:
    names = API_CALLS.schema.names()
    columns = ", ".join(f"{_moment(number)} AS received_at" if name == "received_at" else name for name in names)
    warehouse.command(
        f"INSERT INTO pd.api_calls ({', '.join(names)}) SELECT {columns} FROM file('{file}', 'JSONEachRow', "
        f"'{_FIELDS}') SETTINGS date_time_input_format = 'best_effort', max_insert_block_size = 100000"
    )


def _make(warehouse: Warehouse, database: str, statements: list[str] | tuple[str, ...], *, visitors: str = "") -> None:
    """Make the tables of a database, from the beginning; `visitors`: the condition of the calls of those wanted."""
    warehouse.command(f"DROP DATABASE IF EXISTS {database} SYNC")
    warehouse.command(f"CREATE DATABASE {database}")
    if visitors:
        warehouse.command(
            f"CREATE TABLE {database}.visitors ENGINE = Memory AS SELECT DISTINCT visitor_hash FROM pd.api_calls "
            f"WHERE {OF_DAY} AND {visitors}"
        )
    for table in TABLES:
        warehouse.command(table.create_statement(name=f"{database}.{table.name}"))
    for statement in statements:
        warehouse.command(statement)
