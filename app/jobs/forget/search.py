"""Finds where the warehouse names a person: by the meaning of columns, and in texts.

The engine looks for texts that may name the person, by patterns that find a little too much; what Python would redact
in them counts. So what is searched for is exactly what can be removed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from app.contracts import API_CALLS, COVERAGE, FORGOTTEN, REJECTS, RUNS, SNAPSHOTS, USER_AGENTS
from app.jobs.forget.identifiers import Identifiers
from app.jobs.forget.patterns import (
    LOOSE_OPENING,
    RESOURCE,
    anchor,
    is_name_of_users,
    loose_member_pattern,
    loose_place_pattern,
    phone_pattern,
    words_pattern,
)
from app.jobs.forget.redaction import BODIES, SEARCHED_COLUMNS, clean_calls, redacted
from app.jobs.forget.suppression import readable
from app.warehouse import Warehouse

_OF_USERS = frozenset({"user_id", "customer_id", "person_id"})
_OF_DEVICES = frozenset({"visitor_id", "session_token"})
_NEEDLES = 200  # the engine looks for 255 at a time
_PATTERNS = 30  # alternatives in one regular expression
UNLOGGED = "SETTINGS log_queries = 0"  # a server keeps the text of statements
# Of Carat's own tables only these columns can name people; a person may be called as a job or a table is.
_OF_ETL = {
    RUNS.full_name: ("error",),
    SNAPSHOTS.full_name: ("error", "guarantee"),
    USER_AGENTS.full_name: ("user_agent",),
    COVERAGE.full_name: ("endpoints",),
    REJECTS.full_name: ("source", "detail", "record"),
}


@dataclass(frozen=True)
class Occurrence:
    """A column in which rows name the person."""

    table: str
    column: str
    rows: int


@dataclass(frozen=True)
class TextColumn:
    """A column that holds text, maybe within arrays or maps, by its full type."""

    table: str
    name: str
    type: str

    @property
    def as_text(self) -> str:
        return sql_text(self.name)


def sql_text(column: str) -> str:
    """The SQL of a column's value as text, empty where it is null."""
    return f"ifNull(toString(`{column}`), '')"


def find_occurrences(
    warehouse: Warehouse, ids: Identifiers, tables: Sequence[str], *, people: Mapping[str, Collection[str]]
) -> list[Occurrence]:
    """Where rows of these tables name the person; `people` maps a table to the columns of its that hold users."""
    occurrences = []
    for table in tables:
        exact = _exact_conditions(warehouse, table, people.get(table, ()))
        rows = dict.fromkeys(exact, 0)
        if exact:
            counted = ", ".join(f"countIf({sql}) AS c{number}" for number, sql in enumerate(exact.values()))
            found = warehouse.query(f"SELECT {counted} FROM {table} {UNLOGGED}", _exact_parameters(ids))
            rows = dict(zip(exact, found.row(0), strict=True))
        if table == API_CALLS.full_name:
            of_texts = _named_columns(calls_that_name(warehouse, ids), ids)
        else:
            of_texts = {
                column.name: sum(count for _, count in texts_that_name(warehouse, ids, column, but=exact))
                for column in columns_that_may_name(warehouse, ids, table)
            }
        counts = {column: rows.get(column, 0) + of_texts.get(column, 0) for column in {**rows, **of_texts}}
        occurrences += [Occurrence(table, column, count) for column, count in counts.items() if count]
    return occurrences


def columns_that_may_name(warehouse: Warehouse, ids: Identifiers, table: str) -> list[TextColumn]:
    """The text columns of a table with values that may name the person: one question for all of them."""
    columns = text_columns(warehouse, table)
    tests = [loose_condition(column.as_text, ids, is_bytes=column.name == "record") for column in columns]
    if not any(sql for sql, _ in tests):
        return []
    counted = ", ".join(f"countIf({sql}) AS c{number}" for number, (sql, _) in enumerate(tests))
    counts = warehouse.query(f"SELECT {counted} FROM {table} {UNLOGGED}", tests[0][1]).row(0)
    return [column for column, count in zip(columns, counts, strict=True) if count]


def calls_that_name(warehouse: Warehouse, ids: Identifiers) -> pl.DataFrame:
    """The raw calls, with their content hash, whose texts name the person."""
    schema = {**API_CALLS.schema, "content_hash": pl.UInt64()}
    tests = [loose_condition(f"toString(`{name}`)", ids, is_body=name in BODIES) for name in SEARCHED_COLUMNS]
    if not any(sql for sql, _ in tests):
        return pl.DataFrame(schema=schema)
    where = " OR ".join(sql for sql, _ in tests)
    calls = warehouse.query(
        f"SELECT {', '.join(schema)} FROM {API_CALLS.full_name} WHERE {where} {UNLOGGED}",
        tests[0][1],
        schema=schema,
    )
    clean = clean_calls(calls, ids)
    differs = pl.any_horizontal(pl.lit(calls[name] != clean[name]) for name in SEARCHED_COLUMNS)
    return calls.filter(calls.select(differs).to_series()) if calls.height else calls


def _named_columns(calls: pl.DataFrame, ids: Identifiers) -> dict[str, int]:
    clean = clean_calls(calls, ids)
    of_person = {"user_id": ids.users, "visitor_id": ids.visitors, "session_token": ids.tokens}  # counted already
    return {
        name: int(((calls[name] != clean[name]) & ~calls[name].is_in(of_person.get(name, ()))).sum())
        for name in SEARCHED_COLUMNS
    }


def texts_that_name(
    warehouse: Warehouse, ids: Identifiers, column: TextColumn, *, but: Mapping[str, str] | None = None
) -> list[tuple[Any, int]]:
    """The distinct values of a column that name the person in text, each with its number of rows.

    `but`: a condition per column whose rows are counted by their meaning already.
    """
    condition, parameters = loose_condition(column.as_text, ids, is_bytes=column.name == "record")
    if not condition:
        return []
    without = f" AND NOT ({but[column.name]})" if but and column.name in but else ""
    found = warehouse.query(
        f"SELECT {column.as_text} AS value, count() AS rows FROM {column.table} WHERE ({condition}){without} "
        f"GROUP BY value {UNLOGGED}",
        {**parameters, **_exact_parameters(ids)},
        schema={"value": pl.Binary(), "rows": pl.UInt64()},
    )
    named = []
    for value, rows in found.iter_rows():
        data = value.encode() if isinstance(value, str) else value
        text = readable(data) if column.name == "record" else data.decode("utf-8", "surrogateescape")
        if redacted(text, ids) != text:
            named.append((data, rows))
    return named


def rejects_that_name(warehouse: Warehouse, ids: Identifiers) -> list[str]:
    """The `reject_id` of the rejects that name the person."""
    tests = [
        loose_condition(f"toString(`{name}`)", ids, is_bytes=name == "record") for name in _OF_ETL[REJECTS.full_name]
    ]
    if not any(sql for sql, _ in tests):
        return []
    found = warehouse.query(
        f"SELECT reject_id, source, detail, record FROM {REJECTS.full_name} "
        f"WHERE {' OR '.join(sql for sql, _ in tests)} {UNLOGGED}",
        tests[0][1],
    )
    return [
        reject_id
        for reject_id, *texts in found.iter_rows()
        if any(redacted(text, ids) != text for text in (readable(t) if isinstance(t, bytes) else t for t in texts))
    ]


def loose_condition(
    text: str, ids: Identifiers, *, is_bytes: bool = False, is_body: bool = False
) -> tuple[str, dict[str, Any]]:
    """The SQL condition of texts that may name the person, and its parameters; empty where nothing can be searched.

    `is_body`: the text is of a call whose endpoint may say that it describes a person.
    """
    parameters: dict[str, Any] = {"opening": LOOSE_OPENING, "resource": RESOURCE.pattern}
    tests = []
    text = f"replaceAll({text}, '\\0', '')" if is_bytes else text

    def any_of(needles: Sequence[str], patterns: Sequence[str], name: str) -> None:
        parameters[f"{name}_needles"], parameters[name] = list(needles), "|".join(f"(?:{p})" for p in patterns)
        quick = f"multiSearchAnyCaseInsensitive({text}, {{{name}_needles:Array(String)}}) AND " if needles else ""
        tests.append(f"({quick}match({text}, {{{name}:String}}))")

    anchored = [words for words in ids.anywhere if anchor(words)]
    for start in range(0, len(anchored), _PATTERNS):
        some = anchored[start : start + _PATTERNS]
        any_of([anchor(words) for words in some], [f"(?i:{words_pattern(words)})" for words in some], f"words{start}")
    foreign = [f"(?i:{words_pattern(words)})" for words in ids.anywhere if not anchor(words)]
    if others := [*foreign, *map(phone_pattern, ids.phones)]:
        any_of([], others, "others")
    short = [words for kind in ("users", "visitors", "tokens") for words in ids.placed(kind)]
    anchors = [anchor(words) for words in short] if len(short) <= _NEEDLES and all(map(anchor, short)) else []
    if short:
        any_of(anchors, [loose_place_pattern(ids)], "placed")
    if ids.placed("users"):
        any_of(anchors, [loose_member_pattern(ids)], "members")
        about = " OR match(endpoint, {resource:String})" if is_body else ""
        tests[-1] += f" AND (match({text}, {{opening:String}}){about})"
    return " OR ".join(f"({test})" for test in tests), parameters


def data_tables(warehouse: Warehouse) -> list[str]:
    """The tables of all databases that hold data; not the list of forgotten people, nor journals of erasures."""
    found = warehouse.query(
        "SELECT database || '.' || name AS full_name FROM system.tables "
        "WHERE database IN ('pd', 'dwh', 'history', 'etl') AND engine LIKE '%MergeTree' "
        "AND NOT match(name, '^(writer_lease|forgetting)_') ORDER BY full_name",
        schema={"full_name": pl.String()},
    )
    return [name for name in found["full_name"] if name != FORGOTTEN.full_name]


def text_columns(warehouse: Warehouse, table: str) -> list[TextColumn]:
    """The columns of a table that can name people in text."""
    of_etl = _OF_ETL.get(table, ()) if table.startswith("etl.") else None
    return [
        TextColumn(table, name, type_)
        for name, type_ in _columns(warehouse, table)
        if "String" in type_ and (of_etl is None or name in of_etl)
    ]


def _columns(warehouse: Warehouse, table: str) -> list[tuple[str, str]]:
    return warehouse.query(
        "SELECT name, type FROM system.columns WHERE database || '.' || table = {table:String} "
        "AND default_kind != 'ALIAS' ORDER BY position",
        {"table": table},
    ).rows()


def _exact_conditions(warehouse: Warehouse, table: str, people: Collection[str]) -> dict[str, str]:
    """Per column that holds users or devices, by its name or by what is said of it: the condition of the person's."""
    conditions = {}
    for name, type_ in _columns(warehouse, table) if not table.startswith("etl.") else ():
        text = sql_text(name)
        is_of_users = is_name_of_users(name) if table.startswith("history.") else name in _OF_USERS
        if name in people or (is_of_users and not type_.startswith(("Array", "Map", "Float", "Date"))):
            conditions[name] = f"({text} IN {{users:Array(String)}} OR {hex_of_uuid(text)} IN {{uuids:Array(String)}})"
        elif name in _OF_DEVICES:
            conditions[name] = f"{text} IN {{devices:Array(String)}}"
    return conditions


def _exact_parameters(ids: Identifiers) -> dict[str, Any]:
    uuids = [value.replace("-", "").lower() for value in ids.users]
    return {"users": list(ids.users), "uuids": uuids, "devices": [*ids.visitors, *ids.tokens]}


def hex_of_uuid(text: str) -> str:
    """The SQL of a UUID that is kept as 16 bytes, as its digits; empty for other values."""
    return f"if(length({text}) = 16, lower(hex({text})), '')"


def sorting_key(warehouse: Warehouse, table: str) -> frozenset[str]:
    """The columns of a table that cannot be updated."""
    found: Iterable[str] = warehouse.query(
        "SELECT name FROM system.columns WHERE database || '.' || table = {table:String} "
        "AND (is_in_sorting_key OR is_in_partition_key)",
        {"table": table},
        schema={"name": pl.String()},
    )["name"]
    return frozenset(found)
