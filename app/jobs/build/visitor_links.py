"""Reads whose a day's calls without a visitor id are, and holds it for the statements of a build."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl

from app.contracts import TIME, Column, Table
from app.frames.days import DayBounds
from app.frames.visitors import CALLERS, link_calls, visitors_to_link
from app.jobs.build.call_sql import MOMENT_SCHEMA, instant, is_counted
from app.rules.endpoint_map import EndpointMap
from app.warehouse import Warehouse

_IS_BY_ID = "visitor_hash = sipHash64(visitor_id)"
_IS_BY_TOKEN = "visitor_hash = sipHash64(session_token)"  # noqa: S105
_IN_DAY = f"ts >= {instant('start')} AND ts < {instant('end')}"
_LINKS = Table(
    "etl", "changed_owners",
    "Temporary: calls without a visitor id of the day that is built, and whose they are.",
    (
        Column("call_id", "UUID", "the call"),
        Column("ts", TIME, "when it happened"),
        Column("content_hash", "UInt64", "hash of what it says"),
        Column("visitor_hash", "UInt64", "hash of the visitor by the call's own ids"),
        Column("owner_hash", "UInt64", "hash of the visitor whose it is"),
        Column("owner_key", "String", "the visitor whose it is"),
    ),
    order_by="tuple()",
)  # fmt: skip
_WRITTEN_VISITORS = 2000
_HEADS = f"FROM pd.api_calls WHERE {_IN_DAY} AND"
# By column, the values that calls without a visitor id have.
_ASKED = {
    "ip": f"SELECT ip {_HEADS} NOT {_IS_BY_ID} AND ip != ''",
    "session_token": f"SELECT session_token {_HEADS} {_IS_BY_TOKEN}",
}


@dataclass(frozen=True)
class VisitorLinks:
    """Whose a day's calls without a visitor id are, where they may be another visitor's.

    `table` is a temporary one of them, in which `owner_hash` and `visitor_hash` differ where they are; it is empty
    where there are none. `has_linked`: whether any are. `has_calls_without_id`: whether the day has any with an ip or a
    session token.
    """

    table: str = ""
    has_linked: bool = False
    has_calls_without_id: bool = False

    def linked(self, columns: str, *, of_visitors: str = "") -> str:
        """The SQL of `columns` of the calls that are another visitor's; `of_visitors` is a query of such visitors."""
        condition = f" AND owner_hash IN ({of_visitors})" if of_visitors else ""
        return f"SELECT {columns} FROM {self.table} WHERE visitor_hash != owner_hash{condition}"


@contextmanager
def read_visitor_links(
    warehouse: Warehouse, bounds: DayBounds, endpoint_map: EndpointMap, *, timeout_ms: int
) -> Iterator[VisitorLinks]:
    """The links of the day's calls that are not ignored, held in a temporary table."""
    parameters = {"start": bounds.start, "end": bounds.end, "timeout_ms": timeout_ms}
    counted = is_counted(endpoint_map)
    callers = _read_callers(warehouse, counted, parameters)
    visitors = visitors_to_link(callers)
    if visitors.is_empty():
        yield VisitorLinks(has_calls_without_id=not callers.is_empty())
        return
    suffix = f"{bounds.day:%Y%m%d}_{uuid.uuid4().hex[:12]}"
    asked, table = f"etl.unread_visitors_{suffix}", f"etl.{_LINKS.name}_{suffix}"
    try:
        among = ",".join(map(str, visitors))
        if len(visitors) > _WRITTEN_VISITORS:
            warehouse.create_temp_table(asked, visitors, column="visitor_hash", kind="UInt64")
            among = f"SELECT visitor_hash FROM {asked}"
        moments = MOMENT_SCHEMA | {"content_hash": pl.UInt64()}
        sql = _calls_sql(counted, among)
        calls = pl.concat([node.query(sql, parameters, schema=moments) for node in warehouse.nodes])
        links = link_calls(callers, calls, bounds=bounds, timeout_ms=timeout_ms)
        columns = ", ".join(f"{column.name} {column.type}" for column in _LINKS.columns)
        for number, node in enumerate(warehouse.nodes):
            node.command(f"CREATE TABLE {table} ({columns}) ENGINE = Memory")
            is_here = pl.any_horizontal(
                pl.col(name) % len(warehouse.nodes) == number for name in ("visitor_hash", "owner_hash")
            )
            node.insert(_LINKS, links.filter(is_here).select(_LINKS.schema.names()), into=table)
        has_linked = bool((links["owner_hash"] != links["visitor_hash"]).any())
        yield VisitorLinks(table, has_linked, has_calls_without_id=True)
    finally:
        warehouse.drop_tables([asked, table])


def _read_callers(warehouse: Warehouse, counted: str, parameters: dict[str, int]) -> pl.DataFrame:
    """The day's CALLERS, of calls that have an ip or a token in common with a call without an id."""
    if len(warehouse.nodes) == 1:
        return warehouse.query(_callers_sql(counted, **_ASKED), parameters, schema=CALLERS)
    tables = {column: f"etl.unread_{column}_{uuid.uuid4().hex}" for column in _ASKED}
    try:
        for column, table in tables.items():
            sql = f"SELECT DISTINCT {column} FROM ({_ASKED[column]})"
            asked = [node.query(sql, parameters, schema={column: pl.String()}) for node in warehouse.nodes]
            warehouse.create_temp_table(table, pl.concat(asked)[column].unique(), column=column, kind="String")
        sql = _callers_sql(counted, **{column: f"SELECT {column} FROM {table}" for column, table in tables.items()})
        return pl.concat([node.query(sql, parameters, schema=CALLERS) for node in warehouse.nodes])
    finally:
        warehouse.drop_tables(list(tables.values()))


def _callers_sql(counted: str, *, ip: str, session_token: str) -> str:
    """The day's CALLERS among calls with one of these ips or tokens, each a query."""
    return f"""
SELECT visitor_hash, any(key) AS visitor_key, has_id, token, agent, min(ts) AS first_ts, max(ts) AS last_ts
FROM (
    SELECT visitor_hash, visitor_key AS key, {_IS_BY_ID} AS has_id, ts,
        if(valid_session_token = '', 0, sipHash64(session_token)) AS token,
        if(ip = '' OR user_agent = '', 0, sipHash64(ip, user_agent)) AS agent
    FROM pd.api_calls WHERE {_IN_DAY} AND {counted} AND (
        ip IN ({ip})
        OR session_token IN ({session_token})))
GROUP BY visitor_hash, has_id, token, agent"""


def _calls_sql(counted: str, visitors: str) -> str:
    """The calls of these visitors that carry no visitor id, of the day and of a timeout before and after it."""
    return f"""
SELECT visitor_hash, ts, call_id, content_hash FROM pd.api_calls
WHERE ts >= fromUnixTimestamp64Milli({{start:Int64}} - {{timeout_ms:Int64}}, 'UTC')
    AND ts <= fromUnixTimestamp64Milli({{end:Int64}} + {{timeout_ms:Int64}}, 'UTC')
    AND {counted} AND NOT {_IS_BY_ID} AND visitor_hash IN ({visitors})"""
