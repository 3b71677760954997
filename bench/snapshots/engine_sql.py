"""ClickHouse SQL in the same embedded engine: the rows through the `mysql` table function, compared by a full join."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.settings import load_settings
from app.warehouse import open_warehouse
from bench.snapshots.shop import COLUMNS

_BESIDE = [name for name in COLUMNS if name != "id"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS bench.history (id UInt64, sku Nullable(String), title Nullable(String),
    section Nullable(String), price Nullable(Decimal(10, 2)), quantity Nullable(Int32), weight_g Nullable(Float64),
    updated_at Nullable(DateTime64(6, 'UTC')), version UInt32, valid_from DateTime64(3, 'UTC'),
    op LowCardinality(String), is_deleted Bool, changed Array(String), snapshot_id String)
ENGINE = MergeTree ORDER BY (id, version)"""
_DIFFERS = {name: f"NOT (s.{name} <=> l.{name})" for name in _BESIDE}
_CHANGED = ", ".join(f"if({differs}, '{name}', '')" for name, differs in _DIFFERS.items())
_VALUES = ", ".join(f"if(s.is_here, s.{name}, l.{name}) AS {name}" for name in _BESIDE)
_APPEND = f"""
INSERT INTO bench.history
SELECT if(s.is_here, s.id, l.id), {_VALUES}, l.version + 1, now64(3),
    multiIf(NOT s.is_here, 'delete', l.version = 0 OR l.is_deleted, 'insert', 'update') AS op, NOT s.is_here,
    if(op = 'update', arrayFilter(name -> name != '', [{_CHANGED}]), []), {{stage:String}}
FROM (SELECT *, true AS is_here FROM mysql({{login}})) AS s
FULL JOIN (SELECT * FROM bench.history ORDER BY id, version DESC LIMIT 1 BY id) AS l ON s.id = l.id
WHERE (NOT s.is_here AND NOT l.is_deleted)
    OR (s.is_here AND (l.version = 0 OR l.is_deleted OR {" OR ".join(_DIFFERS.values())}))"""


@contextmanager
def contender(folder: Path, url: str) -> Iterator[Callable[[str], dict[str, object]]]:
    parts = urlsplit(url)
    login = ", ".join(
        f"'{value}'"
        for value in (
            f"{parts.hostname}:{parts.port}",
            "shop",
            "big",
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )
    )
    settings = load_settings(_env_file=None, warehouse=f"chdb://{folder / 'engine'}")
    with open_warehouse(settings, purpose="bench") as warehouse:
        warehouse.command("CREATE DATABASE IF NOT EXISTS bench")
        warehouse.command(_SCHEMA)

        def work(stage: str) -> dict[str, object]:
            warehouse.command(_APPEND.replace("{login}", login), {"stage": stage})
            found = warehouse.query(
                "SELECT op, count() AS rows, sum(id), sum(ifNull(quantity, 0)), sum(version) FROM bench.history "
                "WHERE snapshot_id = {stage:String} GROUP BY op",
                {"stage": stage},
            )
            return json.loads(json.dumps({row[0]: list(row[1:]) for row in found.iter_rows()}))

        yield work
