"""How each table of `dwh` is built from one shard: `BUILDERS` maps a table's name to the function that makes its rows.

To add a table: declare it in `app.contracts.dwh`, write its transformation in `app.frames`, and register it here.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property

import polars as pl
import pyarrow as pa

from app.contracts import CATALOG_SESSIONS, EVENTS, ORDER_CALLS, PRODUCT_SESSIONS, SESSIONS
from app.frames.browsing import Browsing, browse
from app.frames.carts import with_cart_changes
from app.frames.catalog_sessions import build_catalog_sessions
from app.frames.events import TypedCalls, type_calls
from app.frames.money import currency_codes, with_amounts
from app.frames.orders import counted_order_calls, counts_as_order, first_order_calls
from app.frames.product_sessions import build_product_sessions
from app.frames.routes import normal_paths
from app.frames.sessionize import assign_sessions, first_of_each_call
from app.frames.sessions import build_sessions
from app.jobs.build.orders import read_elsewhere
from app.jobs.build.shards import BuildScope, Shard, read_documents
from app.rules.currencies import Currencies
from app.rules.endpoint_map import MONEY_FIELDS, Lookup
from app.rules.session_rules import SessionRules
from app.warehouse import Warehouse


@dataclass(frozen=True)
class DayContext:
    """What all shards of a day share.

    `user_agents` is empty where no table depends on the session rules, `product_versions` where none depends on the
    products' history. `repeats` are ids of order calls that do not count, as another shard holds an earlier one.
    `lookups` are what the endpoint map looks up.
    """

    scope: BuildScope
    session_rules: SessionRules
    user_agents: pl.DataFrame
    product_versions: Sequence[pl.DataFrame]
    currencies: Currencies
    repeats: pl.Series
    lookups: Mapping[Lookup, pl.DataFrame]


@dataclass
class ShardContent:
    """What a shard's calls say; what several tables need is computed once, when the first of them asks for it.

    `events`: the typed calls of sessions that begin on the day, in call order, with `session_number` and
    `is_counted_order`. `unreadable`: by entry and field of the endpoint map, JSON values that could
    not be read. `has_foreign_amounts`: whether a call of these names another currency than the warehouse's.
    """

    day: DayContext
    events: pl.DataFrame
    unreadable: Counter[tuple[str, str]]
    has_foreign_amounts: bool
    _events_of_day: pl.DataFrame | None

    @classmethod
    def of(cls, shard: Shard, day: DayContext, *, through: Warehouse) -> "ShardContent":
        """Type the shard's calls and split them into sessions."""
        scope = day.scope
        bounds = scope.bounds
        calls = assign_sessions(
            first_of_each_call(shard.calls), shard.earlier, bounds=bounds, timeout_ms=scope.timeout_ms
        )
        if scope.session_ids is not None:
            calls = calls.filter(pl.col("session_id").is_in(scope.session_ids.implode()))
        typed, has_foreign_amounts = _type(calls, shard, day, through)
        is_after_midnight = pl.col("ts").dt.epoch("ms") >= bounds.start  # what is before was typed for its memories
        typed = replace(typed, calls=typed.calls.filter(is_after_midnight))
        first = first_order_calls(typed.calls.filter("starts_today"))
        elsewhere = read_elsewhere(through, first["order_id"], bounds.day, replaced=scope.sessions)
        counted = counted_order_calls(first, elsewhere, day.repeats)
        events = typed.calls.with_columns(is_counted_order=counts_as_order(counted), session_date=pl.lit(bounds.day))
        events = events.with_columns(normal_paths(events["endpoint"])).pipe(with_cart_changes)
        of_day = events.filter(pl.col("ts").dt.epoch("ms") < bounds.end).with_columns(event_date=pl.lit(bounds.day))
        return cls(day, events.filter("starts_today"), typed.unreadable, has_foreign_amounts, of_day)

    def take_events_of_day(self) -> pl.DataFrame:
        """The events of the calls of the day, whenever their sessions began; once, so that their memory is freed."""
        assert self._events_of_day is not None
        events, self._events_of_day = self._events_of_day, None
        return events

    @cached_property
    def sessions(self) -> pl.DataFrame:
        """The rows of `dwh.sessions`, with `session_number`."""
        rules = self.day.session_rules
        countries = rules.countries.of(self.events["ip"].unique())
        return build_sessions(self.events, self.day.user_agents, rules, countries)

    @cached_property
    def browsing(self) -> Browsing:
        return browse(self.events)


def _type(calls: pl.DataFrame, shard: Shard, day: DayContext, through: Warehouse) -> tuple[TypedCalls, bool]:
    """The calls with their event and its fields, parsed from their JSON or taken over from an earlier build.

    Also whether one of them names another currency.
    """
    scope = day.scope
    if not scope.reusable_days:
        parsed = _parse(calls, shard.documents, day)
        return parsed, _has_foreign_amounts(parsed.calls, day)
    calls = calls.with_row_index("order")
    known = calls.join(shard.typed, on=["call_id", "content_hash"])
    new = calls.join(shard.typed, on=["call_id", "content_hash"], how="anti")
    if new.is_empty():
        return TypedCalls(known.sort("order").drop("order"), Counter()), _has_foreign_amounts(known, day)
    new, documents = read_documents(through, new, scope, ids_table=f"etl.unread_{uuid.uuid4().hex}")
    parsed = _parse(new, documents, day)
    both = pl.concat([parsed.calls, known.select(parsed.calls.columns)]).sort("order").drop("order")
    return TypedCalls(both, parsed.unreadable), _has_foreign_amounts(both, day)


def _parse(calls: pl.DataFrame, documents: pa.Table, day: DayContext) -> TypedCalls:
    """The calls typed from their JSON, with amounts in the warehouse's currency by the rates of their day."""
    endpoint_map, bounds = day.scope.endpoint_map, day.scope.bounds
    typed = type_calls(calls, documents, endpoint_map=endpoint_map, lookups=day.lookups)
    target = day.currencies.target
    default = endpoint_map.currency.upper() or target
    days = (bounds.day, bounds.day + timedelta(days=1))
    of_day = pl.when(pl.col("ts").dt.epoch("ms") < bounds.end).then(pl.lit(days[0])).otherwise(pl.lit(days[1]))
    rates = day.currencies.rates(currency_codes(typed.calls["currency"], default=default), days)
    calls = with_amounts(
        typed.calls.with_columns(day=of_day), rates, fields=sorted(MONEY_FIELDS), target=target, default=default
    )
    return TypedCalls(calls.drop("day"), typed.unreadable)


def _has_foreign_amounts(calls: pl.DataFrame, day: DayContext) -> bool:
    return not calls["currency"].is_in(["", day.currencies.target]).all()


def _events(shard: ShardContent) -> Iterable[pl.DataFrame]:
    yield shard.take_events_of_day().select(EVENTS.schema.names())


def _order_calls(shard: ShardContent) -> Iterable[pl.DataFrame]:
    whose = shard.sessions.select("session_id", "channel", session_user="user_id")
    calls = shard.events.filter(pl.col("event") == "purchase").join(whose, on="session_id", maintain_order="left")
    own_id = pl.format("call-{}", pl.col("call_id").bin.encode("hex"))
    yield calls.with_columns(
        user_id="session_user",
        order_id=pl.when(pl.col("order_id") == "").then(own_id).otherwise("order_id"),
        is_counted="is_counted_order",
    ).select(ORDER_CALLS.schema.names())


def _sessions(shard: ShardContent) -> Iterable[pl.DataFrame]:
    yield shard.sessions.select(SESSIONS.schema.names())


def _catalog_sessions(shard: ShardContent) -> Iterable[pl.DataFrame]:
    yield build_catalog_sessions(shard.browsing, shard.sessions)


def _product_sessions(shard: ShardContent) -> Iterable[pl.DataFrame]:
    yield from build_product_sessions(shard.browsing, shard.sessions, shard.day.product_versions)


# Returns the rows of a shard in one or more frames, each with the columns of the table and a unique key.
Builder = Callable[[ShardContent], Iterable[pl.DataFrame]]

BUILDERS: dict[str, Builder] = {
    EVENTS.name: _events,
    ORDER_CALLS.name: _order_calls,
    SESSIONS.name: _sessions,
    CATALOG_SESSIONS.name: _catalog_sessions,
    PRODUCT_SESSIONS.name: _product_sessions,
}
