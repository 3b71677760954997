"""DuckDB: the rows through connectorx as Arrow, compared by a full join in SQL, appended to its own file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import connectorx
import duckdb

from bench.snapshots.shop import COLUMNS, QUERY

_SCHEMA = """
CREATE TABLE IF NOT EXISTS history (id UBIGINT, sku VARCHAR, title VARCHAR, section VARCHAR, price DECIMAL(10, 2),
    quantity INTEGER, weight_g DOUBLE, updated_at TIMESTAMP, version UINTEGER, valid_from TIMESTAMP, op VARCHAR,
    is_deleted BOOLEAN, changed VARCHAR[], snapshot_id VARCHAR)"""
_BESIDE = [name for name in COLUMNS if name != "id"]
_DIFFERS = {name: f"s.{name} IS DISTINCT FROM l.{name}" for name in _BESIDE}
_CHANGED = ", ".join(f"CASE WHEN {differs} THEN '{name}' END" for name, differs in _DIFFERS.items())
_VALUES = ", ".join(f"CASE WHEN s.id IS NULL THEN l.{name} ELSE s.{name} END" for name in _BESIDE)
_APPEND = f"""
INSERT INTO history
SELECT coalesce(s.id, l.id), {_VALUES}, coalesce(l.version, 0) + 1, now(),
    CASE WHEN s.id IS NULL THEN 'delete' WHEN l.id IS NULL OR l.is_deleted THEN 'insert' ELSE 'update' END,
    s.id IS NULL,
    CASE WHEN s.id IS NOT NULL AND l.id IS NOT NULL AND NOT l.is_deleted
        THEN list_filter([{_CHANGED}], lambda name: name IS NOT NULL) ELSE [] END,
    $snapshot_id
FROM snapshot AS s FULL JOIN (
    SELECT history.* FROM history JOIN (SELECT id, max(version) AS version FROM history GROUP BY id) USING (id, version)
) AS l ON s.id = l.id
WHERE (s.id IS NULL AND NOT l.is_deleted)
    OR (s.id IS NOT NULL AND (l.id IS NULL OR l.is_deleted OR {" OR ".join(_DIFFERS.values())}))"""


@contextmanager
def contender(folder: Path, url: str) -> Iterator[Callable[[str], dict[str, object]]]:
    with duckdb.connect(str(folder / "duckdb.db")) as database:
        database.execute("SET threads = 2")
        database.execute(_SCHEMA)

        def work(stage: str) -> dict[str, object]:
            batches = connectorx.read_sql(url, QUERY, return_type="arrow_stream", batch_size=65_536)
            database.register("batches", batches)
            database.execute(
                "CREATE OR REPLACE TEMP TABLE snapshot AS "
                "SELECT * REPLACE (CAST(price AS DECIMAL(10, 2)) AS price) FROM batches"
            )
            database.execute(_APPEND, {"snapshot_id": stage})
            database.execute("CHECKPOINT")
            found = database.execute(
                "SELECT op, count(*), CAST(sum(id) AS BIGINT), CAST(sum(coalesce(quantity, 0)) AS BIGINT), "
                "CAST(sum(version) AS BIGINT) FROM history WHERE snapshot_id = $id GROUP BY op",
                {"id": stage},
            ).fetchall()
            return {row[0]: list(row[1:]) for row in found}

        yield work
