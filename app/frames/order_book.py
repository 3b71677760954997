"""The book of orders: what purchase calls and the shop's database say of each order, side by side, and its refunds.

Amounts are exact decimals; each is converted by the rate of its own day.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from zoneinfo import ZoneInfo

import polars as pl

from app.contracts import ORDER_CALLS, ORDERS, REFUNDS
from app.frames.as_of import attributes_as_of
from app.frames.money import CENT, EXACT, MONEY, code_of, in_currency

_INSTANT = pl.Datetime("ms", "UTC")
_PRECISE = pl.Datetime("us", "UTC")
_NOTHING = pl.lit(0).cast(MONEY)
_SAME_ELSEWHERE = 0.02  # of a total in another currency, which the shop converts by rates of its own
_NO_REVENUE = ("cancelled", "test")

CALLS_SCHEMA = pl.Schema({"order_key": pl.String(), **ORDER_CALLS.schema})
VERSIONS_SCHEMA = pl.Schema(
    {
        "order_key": pl.String(), "order_id": pl.String(), "version": pl.UInt32(), "valid_from": _INSTANT,
        "is_deleted": pl.Boolean(), "created": _PRECISE, "state": pl.String(), "total": EXACT,
        "currency": pl.String(), "refunded": EXACT, "user_id": pl.String(), "is_test": pl.Boolean(),
    }
)  # fmt: skip
ITEMS_SCHEMA = pl.Schema(
    {
        "order_key": pl.String(), "row": pl.String(), "valid_from": _INSTANT, "is_deleted": pl.Boolean(),
        "product_id": pl.String(), "units": pl.UInt32(), "price": EXACT, "cost": EXACT,
    }
)  # fmt: skip
REFUNDS_SCHEMA = pl.Schema(
    {
        "order_key": pl.String(), "order_id": pl.String(), "refund_id": pl.String(), "valid_from": _INSTANT,
        "is_deleted": pl.Boolean(), "at": _PRECISE, "amount": EXACT, "currency": pl.String(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class OrderSourceRows:
    """All that is known of some orders.

    `calls`: their rows of `dwh.order_calls`. `versions`: every version of their rows in the shop's database, with the
    state as the shop writes it. `items` and `refunds`: the last version of each. `created` and `at` are the shop's
    local times, as if they were UTC. `hashes`: `order_key, sources_hash`.
    """

    calls: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CALLS_SCHEMA))
    versions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=VERSIONS_SCHEMA))
    items: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ITEMS_SCHEMA))
    refunds: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REFUNDS_SCHEMA))
    hashes: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema={"order_key": pl.String(), "sources_hash": pl.UInt64()})
    )


@dataclass(frozen=True)
class OrderRules:
    """How the rows are read.

    `zone` is the business time zone, `shop_zone` that of the shop's times. `target` is the currency of amounts that are
    not called original, `default` that of amounts without one. `rates` gives `day, currency, rate` for codes and days.
    `states` says what the shop's states mean, in lower case, `currencies` what its currencies are called.
    """

    zone: ZoneInfo
    shop_zone: ZoneInfo
    target: str
    default: str
    rates: Callable[[Collection[str], Iterable[date]], pl.DataFrame]
    states: Mapping[str, str] = field(default_factory=dict)
    currencies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OrderBook:
    """Rows of `dwh.orders` and `dwh.refunds`, sorted by their keys, and the moment of each order."""

    orders: pl.DataFrame
    refunds: pl.DataFrame
    moments: pl.DataFrame


def build_order_book(rows: OrderSourceRows, rules: OrderRules, cost_versions: Sequence[pl.DataFrame] = ()) -> OrderBook:
    """The orders and refunds of these rows. `cost_versions`: `product_id, valid_from, cost`, as `attributes_as_of`."""
    versions = _in_utc(rows.versions, "created", rules).sort("order_key", "valid_from", "version", "order_id")
    known = _placed(rows.calls, versions, rules)
    lines = _lines(rows, known, rules, cost_versions)
    refunds = _refunds(_live(rows.refunds, known), versions, known, rules)
    orders = _with_state(known, refunds)
    orders = orders.join(lines, on="order_key", how="left", maintain_order="left").join(
        rows.hashes, on="order_key", how="left", maintain_order="left"
    )
    orders = _with_results(orders)
    placed = orders.select(
        "order_key", "order_date", "session_id", "visitor_id", "user_id", "channel", "is_counted", order_state="state",
        id_of_order="order_id",
    )  # fmt: skip
    refunds = (
        refunds.join(placed, on="order_key", how="left", maintain_order="left")
        .join(rows.hashes, on="order_key", how="left", maintain_order="left")
        .with_columns(
            pl.col("sources_hash").fill_null(0),
            pl.col("session_id", "visitor_id", "user_id", "channel").fill_null(""),
            pl.col("order_state").fill_null("unknown"),
            pl.col("is_counted").fill_null(value=True),
            order_id=pl.coalesce("id_of_order", "order_id"),
        )
        .sort("order_key", "refund_id")
    )
    return OrderBook(
        orders.select(ORDERS.schema.names()).cast(ORDERS.schema).sort("order_key"),
        refunds.select(REFUNDS.schema.names()).cast(REFUNDS.schema),
        known.select("order_key", "moment"),
    )


# ---- both sides ----------------------------------------------------------------------------------------------------


def _placed(calls: pl.DataFrame, versions: pl.DataFrame, rules: OrderRules) -> pl.DataFrame:
    """A row an order: when and where it was placed, and its totals on both sides."""
    called = (
        calls.sort("order_key", "ts", "call_id")
        .group_by("order_key", maintain_order=True)
        .agg(
            called_id=pl.col("order_id").first(), called_at=pl.col("ts").first(), calls=pl.col("call_id").n_unique(),
            session_dates=pl.col("session_date").unique().sort(),
            called_currency=pl.col("currency").first(), called_total=pl.col("revenue").first(),
            called_original=pl.col("revenue_original").first(), called_user=pl.col("user_id").first(),
            **{name: pl.col(name).first() for name in ("session_id", "visitor_id", "channel", *_CALLED_LINES)},
        )
    )  # fmt: skip
    first_seen = pl.min_horizontal(pl.col("created").first(), pl.col("valid_from").first())
    stored = (
        versions.with_columns(
            state=_state(rules.states),
            currency=_currency(pl.col("currency"), rules),
        )
        .group_by("order_key", maintain_order=True)
        .agg(
            stored_id=pl.col("order_id").last(), created_at=first_seen.cast(_INSTANT),
            is_deleted=pl.col("is_deleted").last(),
            deleted_at=pl.col("valid_from").last(), state=pl.col("state").last(),
            stored_currency=pl.col("currency").last(), stored_original=pl.col("total").last(),
            stored_user=pl.col("user_id").last(),
        )
    )  # fmt: skip
    both = called.join(stored, on="order_key", how="full", coalesce=True).sort("order_key")
    is_stored = pl.col("created_at").is_not_null()
    both = both.with_columns(
        pl.col("session_id", "visitor_id", "channel").fill_null(""),
        pl.col("session_dates").fill_null([]),
        pl.col("calls").fill_null(0),
        pl.col("state").fill_null("unknown"),
        pl.col("is_deleted").fill_null(value=False),
        order_id=pl.coalesce("called_id", "stored_id"),
        user_id=pl.coalesce(pl.col("called_user").replace("", None), "stored_user", pl.lit("")),
        moment=pl.min_horizontal("called_at", "created_at"),
        is_stored=is_stored,
        currency=pl.when(is_stored)
        .then("stored_currency")
        .otherwise(code_of(pl.col("called_currency"), rules.default)),
        database_total=pl.col("stored_original"),
        total_original=pl.coalesce("stored_original", pl.col("called_original").cast(EXACT)),
    )  # fmt: skip
    both = both.with_columns(
        order_date=pl.col("moment").dt.convert_time_zone(rules.zone.key).dt.date(),
        called_currency=code_of(pl.col("called_currency"), rules.default),
    )
    both = _converted(both, ["database_total"], "order_date", rules)
    is_told = pl.col("stored_original").is_not_null()
    return both.with_columns(total=pl.when(is_told).then("database_total").otherwise("called_total"))


def _state(states: Mapping[str, str]) -> pl.Expr:
    named = (
        pl.col("state")
        .str.strip_chars()
        .str.to_lowercase()
        .replace_strict(states, default="unknown", return_dtype=pl.String)
    )
    return pl.when("is_test").then(pl.lit("test")).otherwise(named.fill_null("unknown"))


def _currency(column: pl.Expr, rules: OrderRules) -> pl.Expr:
    return code_of(column.str.strip_chars().replace(dict(rules.currencies)), rules.default)


def _in_utc(frame: pl.DataFrame, column: str, rules: OrderRules) -> pl.DataFrame:
    """The shop's local times as instants; a time that clocks skipped is taken as if it were UTC."""
    if rules.shop_zone.key == "UTC":
        return frame
    plain = pl.col(column).dt.replace_time_zone(None)
    local = plain.dt.replace_time_zone(rules.shop_zone.key, ambiguous="earliest", non_existent="null")
    return frame.with_columns(local.dt.convert_time_zone("UTC").fill_null(pl.col(column)).alias(column))


def _converted(frame: pl.DataFrame, amounts: Sequence[str], day: str, rules: OrderRules) -> pl.DataFrame:
    """The frame with these amounts in the target currency, by the rates of the column `day`."""
    coded = frame.with_columns(day=pl.col(day))
    codes = {*coded["currency"].drop_nulls().unique()}
    rates = rules.rates(codes, coded["day"].drop_nulls().unique())
    return in_currency(coded, amounts, rates, target=rules.target, default=rules.default).drop("day")


# ---- lines and costs -------------------------------------------------------------------------------------------------

_CALLED_LINES = ("order_products", "order_quantities", "order_prices")
_LINE = ("product", "units", "price", "cost")


def _live(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The rows that are there, and those that went together with their order."""
    of_order = known.select("order_key", order_is_deleted="is_deleted", deleted_at="deleted_at")
    went_along = pl.col("order_is_deleted") & (pl.col("valid_from") >= pl.col("deleted_at"))
    return (
        rows.join(of_order, on="order_key", how="left", maintain_order="left")
        .filter(~pl.col("is_deleted") | went_along.fill_null(value=False))
        .drop("order_is_deleted", "deleted_at")
    )


def _lines(
    rows: OrderSourceRows, known: pl.DataFrame, rules: OrderRules, cost_versions: Sequence[pl.DataFrame]
) -> pl.DataFrame:
    """`order_key, items, cost, cost_coverage`: of each order the lines of the database, else those of its call."""
    stored = (
        _live(rows.items, known).sort("order_key", "row").select("order_key", "product_id", "units", "price", "cost")
    )
    called = (
        known.join(stored.select("order_key").unique(), on="order_key", how="anti")
        .filter(pl.col("order_products").list.len() > 0)
        .select("order_key", *_CALLED_LINES)
        .explode(_CALLED_LINES)
        .filter(pl.col("order_products") != "")
        .select(
            "order_key", product_id="order_products", units="order_quantities",
            price=pl.when(pl.col("order_prices") != 0).then(pl.col("order_prices")).cast(MONEY),
        )
    )  # fmt: skip
    of_order = known.select("order_key", "order_date", "moment", "currency")
    stored = stored.join(of_order, on="order_key", maintain_order="left")
    stored = _converted(stored, ["price", "cost"], "order_date", rules)
    called = called.join(of_order, on="order_key", maintain_order="left").with_columns(cost=pl.lit(None, MONEY))
    lines = pl.concat([stored, called.select(stored.columns).cast(stored.schema)])
    lines = lines.with_columns(cost=pl.coalesce("cost", _cost_then(lines, cost_versions, rules)))
    units = pl.col("units").cast(pl.Int64)
    return (
        lines.with_columns(product=pl.col("product_id"))
        .group_by("order_key", maintain_order=True)
        .agg(
            items=pl.struct(_LINE),
            cost=pl.when(pl.col("cost").is_not_null().any()).then((pl.col("cost") * units).sum()).cast(MONEY),
            cost_coverage=units.filter(pl.col("cost").is_not_null()).sum() / units.sum(),
        )
        .with_columns(pl.col("cost_coverage").fill_nan(0.0))
    )


def _cost_then(lines: pl.DataFrame, cost_versions: Sequence[pl.DataFrame], rules: OrderRules) -> pl.Series:
    """What each line's product cost at the moment of the order, in the target currency."""
    nothing = pl.Series("cost_then", [None] * lines.height, MONEY)
    if not cost_versions or lines.is_empty():
        return nothing
    products = pl.Enum(lines["product_id"].unique().sort())
    codes = lines["product_id"].cast(products).to_physical()
    found = attributes_as_of(codes, lines["moment"], products, cost_versions)
    costs = found.select("cost").with_columns(lines["order_date"], currency=pl.lit(rules.default))
    return _converted(costs, ["cost"], "order_date", rules)["cost"].alias("cost_then")


# ---- refunds and state -----------------------------------------------------------------------------------------------


def _refunds(explicit: pl.DataFrame, versions: pl.DataFrame, known: pl.DataFrame, rules: OrderRules) -> pl.DataFrame:
    """A row a refund, with its amount in the target currency (`amount`) and in the order's (`of_order`).

    What the order's row tells beyond the refunds of the refunds table counts as refunds of its own, at the versions
    that first told it: an order that is refunded in part and then in full is refunded once.
    """
    of_order = known.select("order_key", "total", "total_original", "order_date", order_currency="currency")
    said = (
        _in_utc(explicit, "at", rules)
        .join(of_order, on="order_key", how="left", maintain_order="left")
        .with_columns(
            refunded_at=pl.coalesce("at", "valid_from").cast(_INSTANT),
            currency=pl.when(pl.col("currency").fill_null("").str.strip_chars() == "")
            .then(pl.coalesce("order_currency", pl.lit(rules.default)))
            .otherwise(_currency(pl.col("currency"), rules)),
            amount_original=pl.col("amount").abs(),
            amount=pl.col("amount").abs(),
        )
    )
    said = _on_their_day(said, rules)
    as_order = pl.when(pl.col("currency") == pl.col("order_currency")).then(
        pl.col("amount_original").cast(MONEY, strict=False)
    )
    ratio = pl.col("total_original").cast(pl.Float64) / pl.col("total").cast(pl.Float64)
    other = (pl.col("amount").cast(pl.Float64) * ratio).round(2).cast(MONEY, strict=False)
    said = said.with_columns(of_order=as_order.otherwise(other), said_by=pl.lit("refunds"))
    told = _told_by_orders(versions, said, rules)
    columns = [
        "order_key",
        "order_id",
        "refund_id",
        "refund_date",
        "refunded_at",
        "currency",
        "amount_original",
        "amount",
        "of_order",
        "said_by",
    ]
    shape = {"amount_original": EXACT, "amount": MONEY, "of_order": MONEY}
    return pl.concat([frame.select(columns).cast(shape) for frame in (said, told)])  # type: ignore[arg-type]


def _on_their_day(refunds: pl.DataFrame, rules: OrderRules) -> pl.DataFrame:
    dated = refunds.with_columns(refund_date=pl.col("refunded_at").dt.convert_time_zone(rules.zone.key).dt.date())
    return _converted(dated, ["amount"], "refund_date", rules)


def _told_by_orders(versions: pl.DataFrame, said: pl.DataFrame, rules: OrderRules) -> pl.DataFrame:
    """Refunds of which only the orders' own rows tell: where a version tells of more, or less, than the one before."""
    explicit = said.group_by("order_key").agg(pl.col("of_order").sum().alias("explicit"))
    is_refunded = _state(rules.states) == "refunded"
    by_state = pl.when(is_refunded).then(pl.col("total")).otherwise(pl.lit(0, EXACT))
    so_far = pl.max_horizontal(pl.col("refunded").abs().fill_null(0), by_state.fill_null(0)).cast(MONEY, strict=False)
    beyond = so_far.fill_null(0) - pl.col("explicit").fill_null(0)
    told = (
        versions.join(explicit, on="order_key", how="left", maintain_order="left")
        .with_columns(beyond=pl.max_horizontal(beyond, _NOTHING).cast(MONEY))
        .with_columns(
            of_order=(pl.col("beyond") - pl.col("beyond").shift(1).over("order_key").fill_null(0)).cast(MONEY)
        )
        .with_columns(number=pl.int_range(pl.len()).over("order_key"))
        .filter(pl.col("of_order") != 0)
    )
    # Of a refund that was there when the order was first read, nothing says when: it is dated like the order.
    first = pl.min_horizontal("created", "valid_from")
    told = told.with_columns(
        refund_id=pl.format("{}:{}", "order_id", "version"),
        refunded_at=pl.when(pl.col("number") == 0).then(first).otherwise("valid_from").cast(_INSTANT),
        currency=_currency(pl.col("currency"), rules),
        amount_original=pl.col("of_order").cast(EXACT),
        amount=pl.col("of_order").cast(EXACT),
        said_by=pl.lit("order"),
    )
    return _on_their_day(told, rules)


def _with_state(known: pl.DataFrame, refunds: pl.DataFrame) -> pl.DataFrame:
    """The orders with `refunded`, and the state that their refunds show where the shop's own lags behind."""
    sums = refunds.group_by("order_key").agg(
        refunded=pl.col("amount").sum().cast(MONEY), back=pl.col("of_order").sum().cast(MONEY)
    )
    orders = known.join(sums, on="order_key", how="left", maintain_order="left")
    orders = orders.with_columns(pl.col("refunded").fill_null(0), pl.col("back").fill_null(0))
    total = pl.col("total_original").cast(MONEY, strict=False)
    is_whole = ((pl.col("back") >= total) & (total > 0)).fill_null(value=False)
    may_change = ~pl.col("state").is_in([*_NO_REVENUE, "refunded"]) & (pl.col("back") > 0)
    state = (
        pl.when(may_change & is_whole)
        .then(pl.lit("refunded"))
        .when(may_change)
        .then(pl.lit("partly_refunded"))
        .otherwise("state")
    )
    return orders.with_columns(state=state)


def _with_results(orders: pl.DataFrame) -> pl.DataFrame:
    is_counted = ~pl.col("state").is_in(_NO_REVENUE)
    net = pl.when(is_counted).then(pl.col("total") - pl.col("refunded")).otherwise(_NOTHING).cast(MONEY)
    cost = pl.when(pl.col("state").is_in(_NO_REVENUE)).then(_NOTHING).otherwise("cost")
    coverage = pl.col("cost_coverage").fill_null(0.0)
    is_known = (coverage >= 1) | ~is_counted
    return orders.with_columns(
        pl.col("items").fill_null([]),
        match=_match(),
        is_counted=is_counted,
        net_revenue=net,
        contribution=pl.when(is_known).then(net - cost).cast(MONEY),
        cost_coverage=coverage,
        sources_hash=pl.col("sources_hash").fill_null(0),
    )


def _match() -> pl.Expr:
    """How the two sides agree; a total that one side does not say contradicts nothing."""
    here, there = pl.col("called_original").cast(EXACT), pl.col("stored_original")
    differs_here = ((here - there).abs() >= CENT).fill_null(value=False)
    called, stored = pl.col("called_total").cast(pl.Float64), pl.col("database_total").cast(pl.Float64)
    differs_elsewhere = ((called - stored).abs() > _SAME_ELSEWHERE * called.abs()).fill_null(value=False)
    differs = (
        pl.when(pl.col("called_currency") == pl.col("stored_currency")).then(differs_here).otherwise(differs_elsewhere)
    )
    return (
        pl.when(pl.col("called_at").is_null())
        .then(pl.lit("only_in_database"))
        .when(~pl.col("is_stored"))
        .then(pl.lit("only_called"))
        .when(differs)
        .then(pl.lit("amount_differs"))
        .when(pl.col("calls") > 1)
        .then(pl.lit("called_twice"))
        .otherwise(pl.lit("equal"))
    )
