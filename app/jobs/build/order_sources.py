"""Reads what is known of orders: their calls in `dwh.order_calls`, and the shop's own tables in `history`.

An order's key is its id in one form (`NORMAL_ORDER_ID`), by which calls and rows of the database find each other. Its
row is what items and refunds name it by, which may be another column.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from app import TRANSFORM_VERSION
from app.contracts import ORDER_CALLS, Column, Table
from app.contracts.dwh import NORMAL_ORDER_ID
from app.core.sql import quote
from app.frames.order_book import (
    CALLS_SCHEMA,
    ITEMS_SCHEMA,
    REFUNDS_SCHEMA,
    VERSIONS_SCHEMA,
    OrderRules,
    OrderSourceRows,
)
from app.jobs.build.product_history import UUID_BYTES
from app.jobs.build.rules import BuildRules
from app.rules.order_meaning import OrderMeanings
from app.rules.toml_file import digest_of
from app.warehouse import FingerprintSource, Warehouse
from app.warehouse.history import existing_histories, key_of

_MOST_DIGITS = 15  # before the decimal point: a longer number is not an amount of money
_HASHED_CALL = ", ".join(
    f"ifNull(toString(`{column.name}`), '\\\\N')" if column.is_nullable else f"`{column.name}`"
    for column in ORDER_CALLS.written
)
CALLS_SOURCE = FingerprintSource(
    ORDER_CALLS.full_name, at="toDateTime64(session_date, 3, 'UTC')", content=f"cityHash64({_HASHED_CALL})"
)
_KEY_OF_CALL = NORMAL_ORDER_ID("order_id")
_KINDS = ("orders", "order_items", "refunds")


@dataclass(frozen=True)
class HistorySource:
    """A table of `history` and the columns that have a meaning, by what they mean."""

    history: Table
    columns: Mapping[str, Column]
    minor_units: int = 0

    @property
    def full_name(self) -> str:
        return self.history.full_name

    def has(self, name: str) -> bool:
        return name in self.columns

    def raw(self, name: str) -> str:
        return f"`{self.columns[name].name}`"

    def is_integer(self, name: str) -> bool:
        return "Int" in self.columns[name].type

    def text(self, name: str) -> str:
        """The SQL of a column as text; a UUID in 16 bytes as its digits, and empty where it is null or missing."""
        if not self.has(name):
            return "''"
        if self.columns[name].comment.lower().endswith(UUID_BYTES):
            return f"lower(hex(ifNull({self.raw(name)}, '')))"
        return f"ifNull(toString({self.raw(name)}), '')"

    def amount(self, name: str) -> str:
        """The SQL of a column as an exact decimal; null where it is missing or no amount."""
        if not self.has(name):
            return "CAST(NULL AS Nullable(Decimal(38, 6)))"
        number = f"toDecimal128OrNull(toString({self.raw(name)}), 6)"
        exact = f"{number} / {10**self.minor_units}" if self.minor_units else number
        return f"if(abs({exact}) < 1e{_MOST_DIGITS}, {exact}, NULL)"

    def time(self, name: str) -> str:
        """The SQL of a column as a time, as if it were UTC; null where it is missing or no time."""
        if not self.has(name):
            return "CAST(NULL AS Nullable(DateTime64(6, 'UTC')))"
        if self.columns[name].type.startswith(("DateTime64", "Nullable(DateTime64")):
            return self.raw(name)
        return f"parseDateTime64BestEffortOrNull(toString({self.raw(name)}), 6, 'UTC')"

    @cached_property
    def content(self) -> str:
        """The SQL of a version's hash."""
        names = sorted({*key_of(self.history), *(column.name for column in self.columns.values())})
        values = ", ".join(f"ifNull(toString(`{name}`), '\\\\N')" for name in names)
        return f"cityHash64({quote(self.history.name)}, valid_from, version, is_deleted, [{values}])"

    @property
    def fingerprint(self) -> FingerprintSource:
        return FingerprintSource(self.full_name, at="valid_from", content=self.content)

    @property
    def key(self) -> str:
        return ", ".join(f"`{name}`" for name in key_of(self.history))


@dataclass(frozen=True)
class OrderSources:
    """The shop's tables of orders, as far as the plan describes them and history has them, and how they are read."""

    meanings: OrderMeanings
    orders: HistorySource | None
    items: HistorySource | None
    refunds: HistorySource | None
    rules: OrderRules
    no_ids: tuple[str, ...]  # users that are none, in lower case

    @property
    def of_history(self) -> list[HistorySource]:
        return [source for source in (self.orders, self.items, self.refunds) if source is not None]

    @property
    def digest(self) -> str:
        """Changes when the same rows would be read in another way."""
        rules = (self.rules.zone.key, self.rules.target, self.rules.default, self.no_ids)
        return digest_of((self.meanings.digest, TRANSFORM_VERSION, rules))

    def is_by_number(self) -> bool:
        """Whether rows are compared as whole numbers, which spares making texts of whole columns."""
        return self.orders is not None and self.orders.is_integer("order_id")

    def row(self, source: HistorySource) -> str:
        """The SQL of the order's row that a table names."""
        if not self.is_by_number():
            return source.text("order_id")
        column = source.raw("order_id")
        return f"toInt64({column})" if source.is_integer("order_id") else f"toInt64OrNull(toString({column}))"

    def number(self) -> str:
        """What calls name the order by: a column of the orders."""
        return "number" if self.orders is not None and self.orders.has("number") else "order_id"

    def named(self, orders: HistorySource) -> str:
        """The SQL of the order's id as calls write it, as text; of an order that has no number yet, its row."""
        number, row = orders.text(self.number()), orders.text("order_id")
        return number if number == row else f"if({number} = '', {row}, {number})"


def find_sources(warehouse: Warehouse, rules: BuildRules) -> OrderSources:
    """The tables and columns of the plan's orders that exist in history."""
    meanings = rules.plan.orders
    currency = rules.endpoint_map.currency.upper() or rules.currencies.target
    stated = meanings.orders
    order_rules = OrderRules(
        rules.zone,
        stated.zone(rules.zone) if stated else rules.zone,
        rules.currencies.target,
        currency,
        rules.currencies.rates,
        stated.state_of if stated else {},
        stated.currencies if stated else {},
    )
    histories = existing_histories(warehouse) if stated else {}
    needed = (("order_id", "created", "total"), ("order_id", "product_id"), ("order_id", "amount", "at"))
    found: list[HistorySource | None] = []
    for name, meaning, required in zip(_KINDS, vars(meanings).values(), needed, strict=True):
        history = histories.get(name) if meaning else None
        source = _source(history, meaning.model_dump()) if history is not None and meaning else None
        found.append(source if source and all(source.has(column) for column in required) else None)
    orders, items, refunds = found
    if orders is None:
        items = refunds = None
    no_ids = tuple(value.lower() for value in rules.settings.no_id_values)
    return OrderSources(meanings, orders, items, refunds, order_rules, no_ids)


def _source(history: Table, meaning: Mapping[str, Any]) -> HistorySource:
    known = {column.name: column for column in history.columns}
    columns = {}
    for name, column in meaning.items():
        # A column that is named like a version's own has a prefix.
        if isinstance(column, str) and (kept := known.get(f"source_{column}") or known.get(column)):
            columns[name] = kept
    return HistorySource(history, columns, meaning["minor_units"])


# ---- orders that are asked for -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WantedOrders:
    """Some orders, in temporary tables.

    `keys` has their `order_key`, `rows` the `row_key` and `order_key` of their rows in the shop's database.
    """

    warehouse: Warehouse
    sources: OrderSources
    keys: str
    rows: str


@contextmanager
def wanted_orders(
    warehouse: Warehouse,
    sources: OrderSources,
    *,
    keys: Sequence[str],
    rows: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
) -> Iterator[WantedOrders]:
    """The orders that the queries of `order_key` (`keys`) and of `row_key` (`rows`) find."""
    suffix = uuid.uuid4().hex
    named = {name: f"etl.unread_order_{name}_{suffix}" for name in ("seeds", "keys", "rows")}
    kind = "Int64" if sources.is_by_number() else "String"
    try:
        seeds = " UNION ALL ".join(f"SELECT CAST(row_key AS Nullable({kind})) AS row_key FROM ({sql})" for sql in rows)
        warehouse.command(f"CREATE TABLE {named['seeds']} (row_key {kind}) ENGINE = Memory")
        if rows and sources.orders:
            warehouse.command(
                f"INSERT INTO {named['seeds']} SELECT DISTINCT assumeNotNull(row_key) FROM ({seeds}) "
                "WHERE row_key IS NOT NULL",
                parameters,
            )
        warehouse.command(f"CREATE TABLE {named['keys']} (order_key String) ENGINE = Memory")
        warehouse.command(f"CREATE TABLE {named['rows']} (row_key {kind}, order_key String) ENGINE = Memory")
        asked = [f"SELECT order_key FROM ({sql})" for sql in keys]
        if sources.orders:
            asked += _keys_of_rows(sources, sources.orders, named["seeds"])
        warehouse.command(
            f"INSERT INTO {named['keys']} SELECT DISTINCT order_key FROM ({' UNION ALL '.join(asked)}) "
            "WHERE order_key != ''",
            parameters,
        )
        if sources.orders:
            for sql in _rows_of_keys(sources, sources.orders, seeds=named["seeds"], keys=named["keys"]):
                warehouse.command(f"INSERT INTO {named['rows']} {sql}")
        yield WantedOrders(warehouse, sources, named["keys"], named["rows"])
    finally:
        warehouse.drop_tables(list(named.values()))


def _keys_of_rows(sources: OrderSources, orders: HistorySource, seeds: str) -> list[str]:
    """The keys of rows, under every number that they have had; of rows that the orders lack, their own."""
    row, number = sources.row(orders), sources.named(orders)
    is_seed = f"{row} IN (SELECT row_key FROM {seeds})"
    is_known = f"row_key IN (SELECT {row} FROM {orders.full_name} WHERE {is_seed})"
    own = NORMAL_ORDER_ID("toString(row_key)")
    named = f"SELECT {NORMAL_ORDER_ID(number)} AS order_key FROM {orders.full_name} WHERE {is_seed}"
    return [named, f"SELECT {own} AS order_key FROM {seeds} WHERE NOT {is_known}"]


def _rows_of_keys(sources: OrderSources, orders: HistorySource, *, seeds: str, keys: str) -> list[str]:
    """The rows that calls name, and the seeds; in two steps, as those that the orders lack come after the others."""
    row, number = sources.row(orders), sources.number()
    if orders.is_integer(number):
        as_number = "toInt64OrNull(order_key)"
        wanted = f"SELECT assumeNotNull({as_number}) FROM {keys} WHERE {as_number} IS NOT NULL"
        is_named = f"{orders.raw(number)} IN ({wanted})"
    else:
        # Much cheaper than the form of keys, and the same for all that have the same form.
        loose = "trim(LEADING '0' FROM replaceAll(trimRight(lower({})), '-', ''))".format
        is_named = f"{loose(sources.named(orders))} IN (SELECT {loose('order_key')} FROM {keys})"
    key, own = NORMAL_ORDER_ID(sources.named(orders)), NORMAL_ORDER_ID("toString(row_key)")
    is_seed = f"{row} IN (SELECT row_key FROM {seeds})"
    named = (
        f"SELECT {row} AS row_key, argMax({key}, version) AS order_key FROM {orders.full_name} "
        f"WHERE {is_seed} OR {is_named} GROUP BY row_key HAVING order_key IN (SELECT order_key FROM {keys})"
    )
    is_known = f"row_key IN (SELECT {row} FROM {orders.full_name} WHERE {is_seed})"
    return [named, f"SELECT row_key, {own} AS order_key FROM {seeds} WHERE NOT {is_known}"]


def read_hashes(wanted: WantedOrders) -> pl.DataFrame:
    """`order_key, sources_hash`: a hash of all that is known of each order, and of how it is read."""
    sources = wanted.sources
    of_calls = f"SELECT {_KEY_OF_CALL} AS order_key, {CALLS_SOURCE.content} AS hash FROM {ORDER_CALLS.full_name}"
    parts = [
        f"{of_calls} WHERE {_is_called(wanted)}",
        *(
            f"SELECT order_key, hash FROM (SELECT {sources.row(source)} AS row_key, {source.content} AS hash "
            f"FROM {source.full_name} WHERE row_key IN (SELECT row_key FROM {wanted.rows})) AS versions "
            f"INNER JOIN {wanted.rows} AS wanted USING (row_key)"
            for source in sources.of_history
        ),
    ]
    return wanted.warehouse.query(
        f"SELECT order_key, cityHash64(sum(hash), {quote(sources.digest)}) AS sources_hash "
        f"FROM ({' UNION ALL '.join(parts)}) WHERE order_key IN (SELECT order_key FROM {wanted.keys}) "
        "GROUP BY order_key",
        schema={"order_key": pl.String(), "sources_hash": pl.UInt64()},
    )


def read_rows(wanted: WantedOrders) -> OrderSourceRows:
    """All that is known of the orders."""
    columns = ", ".join(f"`{name}`" for name in ORDER_CALLS.schema)
    sources = wanted.sources
    calls = wanted.warehouse.query(
        f"SELECT {_KEY_OF_CALL} AS order_key, {columns} FROM {ORDER_CALLS.full_name} WHERE {_is_called(wanted)} "
        f"AND order_key IN (SELECT order_key FROM {wanted.keys})",
        schema=CALLS_SCHEMA,
    )
    hashes = read_hashes(wanted)
    if sources.orders is None:
        return OrderSourceRows(calls=calls, hashes=hashes)
    return OrderSourceRows(
        calls,
        _read(wanted, sources.orders, _order_columns(sources, sources.orders), VERSIONS_SCHEMA),
        _read_last(wanted, sources.items, _item_columns, ITEMS_SCHEMA),
        _read_last(wanted, sources.refunds, _refund_columns, REFUNDS_SCHEMA),
        hashes,
    )


def _is_called(wanted: WantedOrders) -> str:
    return f"order_hash IN (SELECT cityHash64(order_key) FROM {wanted.keys})"


def _read(
    wanted: WantedOrders, source: HistorySource, columns: Mapping[str, str], schema: pl.Schema, *, versions: str = ""
) -> pl.DataFrame:
    row = wanted.sources.row(source)
    selected = ", ".join(f"{sql} AS `found {name}`" for name, sql in columns.items())
    named = ", ".join(f"`found {name}` AS `{name}`" for name in columns)
    return wanted.warehouse.query(
        f"SELECT order_key, {named} FROM (SELECT {row} AS row_key, {selected} FROM {versions or source.full_name} "
        f"WHERE {row} IN (SELECT row_key FROM {wanted.rows})) AS found "
        f"INNER JOIN {wanted.rows} AS wanted USING (row_key)",
        schema=schema,
    )


def _read_last(
    wanted: WantedOrders,
    source: HistorySource | None,
    columns: Callable[[HistorySource], dict[str, str]],
    schema: pl.Schema,
) -> pl.DataFrame:
    """The last version of each row, whichever order it named before."""
    if source is None:
        return pl.DataFrame(schema=schema)
    of_orders = f"{wanted.sources.row(source)} IN (SELECT row_key FROM {wanted.rows})"
    keys = f"SELECT {source.key} FROM {source.full_name} WHERE {of_orders}"
    last = (
        f"(SELECT * FROM {source.full_name} WHERE ({source.key}) IN ({keys}) "
        f"ORDER BY {source.key}, version DESC LIMIT 1 BY {source.key})"
    )
    return _read(wanted, source, columns(source), schema, versions=last)


_OF_VERSION = {"valid_from": "valid_from", "is_deleted": "is_deleted"}


def _order_columns(sources: OrderSources, orders: HistorySource) -> dict[str, str]:
    is_test = f"lower({orders.text('test')}) NOT IN ('', '0', 'false', 'no', 'f', 'n')"
    user, nobody = orders.text("user"), ", ".join(map(quote, ("", *sources.no_ids)))
    return {
        **_OF_VERSION,
        "version": "version",
        "order_id": sources.named(orders),
        "created": orders.time("created"),
        "state": orders.text("state"),
        "total": orders.amount("total"),
        "currency": orders.text("currency"),
        "refunded": orders.amount("refunded"),
        "user_id": f"if(lower({user}) IN ({nobody}), '', {user})",
        "is_test": is_test if orders.has("test") else "false",
    }


def _row_text(source: HistorySource) -> str:
    key = ", ".join(f"toString(`{name}`)" for name in key_of(source.history))
    return f"arrayStringConcat([{key}], ':')"


def _item_columns(items: HistorySource) -> dict[str, str]:
    # Quantities may be decimals; what is negative belongs to a refund.
    quantity = f"toUInt32OrZero(extract({items.text('quantity')}, '^[0-9]+'))"
    units = quantity if items.has("quantity") else "toUInt32(1)"
    price = items.amount("price")
    if items.has("line_total") and not items.has("price"):
        price = f"if({units} = 0, NULL, {items.amount('line_total')} / {units})"
    return {
        **_OF_VERSION,
        "row": _row_text(items),
        "product_id": items.text("product_id"),
        "units": units,
        "price": price,
        "cost": items.amount("cost"),
    }


def _refund_columns(refunds: HistorySource) -> dict[str, str]:
    return {
        **_OF_VERSION,
        "refund_id": _row_text(refunds),
        "order_id": refunds.text("order_id"),
        "at": refunds.time("at"),
        "amount": refunds.amount("amount"),
        "currency": refunds.text("currency"),
    }
