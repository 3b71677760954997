"""What a session was shown and what it did with it: listings, impressions, and which page a step is credited to."""

from dataclasses import dataclass

import polars as pl

from app.frames.carts import products_of_call
from app.frames.sessions import is_event
from app.rules.endpoint_map import PRODUCT_EVENTS


@dataclass(frozen=True)
class Browsing:
    """The browsing of sessions, told apart by `session_number`; `position` is a call's place in call order.

    `catalog`: the catalog calls with `position, seq, listing_id`. `impressions`: one row per product shown, `key,
    position, ts, listing_id`. `actions`: one row per product of a view, favorite, cart call or counted order, `key,
    position, ts, event, quantity, price, revenue` and, where an earlier page of the session showed the product,
    `shown_at` (that page's position), `place` (the product's on the page, from 1) and `listing_id`. `key` is session
    and product in one (`session_and_product`).
    """

    catalog: pl.DataFrame
    impressions: pl.DataFrame
    actions: pl.DataFrame
    products: pl.Enum


def browse(events: pl.DataFrame) -> Browsing:
    """The browsing in events in call order: `dwh.events` with `session_number, is_counted_order, cart_changes`."""
    numbered = events.with_row_index("position")
    catalog = numbered.filter(is_event("catalog")).with_columns(
        seq=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).over("session_number"), listing=listing_key()
    )
    # In two steps: a window inside a window would see its own group alone.
    catalog = catalog.with_columns(listing_id=listings_so_far())
    catalog = catalog.with_columns(pl.col("listing_id").first().over("session_number", "listing"))
    shown = catalog.select("session_number", "position", "ts", "listing_id", product_id="shown_products")
    shown = shown.explode("product_id", empty_as_null=False)
    acted = pl.concat([_single_products(numbered), _order_items(numbered)]).filter(pl.col("product_id") != "")
    # In order, so that what is sorted by key is sorted by session and product.
    products = pl.Enum(pl.concat([shown["product_id"], acted["product_id"]]).unique().sort())
    impressions = shown.select(product_key(products), "position", "ts", "listing_id")
    actions = acted.select(product_key(products), pl.exclude("session_number", "product_id")).sort("position")
    return Browsing(catalog, impressions, _credited(actions, impressions, first_rows(catalog)), products)


def listing_key() -> pl.Expr:
    """What makes a listing: query, filters whatever their order, prices and sort; not its page."""
    lists = [pl.col(name).list.sort().list.join("\x1e") for name in ("section", "material", "metal")]
    prices = [pl.col(name).cast(pl.String).fill_null("") for name in ("price_min", "price_max")]
    return pl.concat_str("search_query", *lists, *prices, "sort", filters_as_text(), separator="\x1f")


def filters_as_text() -> pl.Expr:
    """The shop's own filters as one text, the same whatever the order of their values."""
    one = pl.element().struct.field
    text = pl.concat_str(one("key"), one("value").list.sort().list.join("\x1e"), separator="\x1d")
    return as_pairs().list.eval(text).list.join("\x1c")


def as_pairs() -> pl.Expr:
    """The shop's own filters as a list of name and values."""
    return pl.col("filters").cast(pl.List(pl.Struct({"key": pl.String, "value": pl.List(pl.String)})))


def listings_so_far() -> pl.Expr:
    """How many different listings the session has seen: at its first call, a listing's number."""
    is_new = pl.struct("session_number", "listing").is_first_distinct()
    return is_new.cast(pl.UInt32).cum_sum().over("session_number")


def product_key(products: pl.Enum) -> pl.Expr:
    """Session and product as one integer: what the large tables are grouped and joined by."""
    code = pl.col("product_id").cast(products).to_physical().cast(pl.UInt64)
    return (pl.col("session_number").cast(pl.UInt64) * 2**32 + code).alias("key")


def session_and_product(keys: pl.Series, products: pl.Enum) -> pl.DataFrame:
    """The `session_number` and `product_id` of keys."""
    return pl.DataFrame(
        {
            "session_number": (keys // 2**32).cast(pl.UInt32),
            "product_id": product_codes(keys).cat.to(products).cast(pl.String),
        }
    )


def product_codes(keys: pl.Series) -> pl.Series:
    """The products of keys, as physical values of their Enum."""
    return (keys % 2**32).cast(pl.UInt32)


_LAST_PLACE = 2**16 - 1
_ACTION_COLUMNS = ("session_number", "product_id", "position", "ts", "event", "quantity", "price", "revenue")


def _single_products(numbered: pl.DataFrame) -> pl.DataFrame:
    """A row per product of a view, favorite or cart call; a new quantity is what it adds or takes away."""
    acted = numbered.filter(pl.col("event").is_in(PRODUCT_EVENTS)).with_columns(
        revenue=pl.lit(0).cast(pl.Decimal(18, 2))
    )
    is_several = pl.col("order_products").list.len() > 0
    single = acted.filter(~is_several, ~is_event("cart_update")).select(_ACTION_COLUMNS)
    several = acted.filter(is_several, ~is_event("cart_update")).with_columns(
        product_id="order_products", quantity="order_quantities", price="order_prices"
    )
    several = several.select(_ACTION_COLUMNS).explode("product_id", "quantity", "price", empty_as_null=False)
    several = several.with_columns(price=pl.when(pl.col("price") != 0).then("price"))
    return pl.concat([single, several, _quantity_changes(acted)])


def _quantity_changes(acted: pl.DataFrame) -> pl.DataFrame:
    products, _ = products_of_call()
    updates = acted.filter(is_event("cart_update")).with_columns(products)
    return (
        updates.explode("product_id", "cart_changes", empty_as_null=False)
        .filter(pl.col("cart_changes").fill_null(0) != 0)
        .with_columns(
            event=pl.when(pl.col("cart_changes") > 0).then(pl.lit("cart_add")).otherwise(pl.lit("cart_remove")),
            quantity=pl.col("cart_changes").abs().cast(pl.UInt32),
        )
        .select(_ACTION_COLUMNS)
    )


def _order_items(numbered: pl.DataFrame) -> pl.DataFrame:
    items = numbered.filter("is_counted_order").select(
        "session_number",
        "position",
        "ts",
        "event",
        total="revenue",
        product_id="order_products",
        quantity="order_quantities",
        price="order_prices",
    )
    return (
        items.explode("product_id", "quantity", "price", empty_as_null=False)
        .filter(pl.col("product_id") != "")
        .with_columns(revenue=revenue_share())
        .with_columns(price=pl.when(pl.col("price") != 0).then("price"))
        .select(_ACTION_COLUMNS)
    )


def revenue_share() -> pl.Expr:
    """An item's share of its order's total, by price times units, exact to the cent: the shares add up to the total.

    Where no item has a price, by units; where none has units, either, in equal parts. Equal to price times units
    wherever these add up to the total. In: an order's items one after the other, in `position`.
    """
    units = pl.col("quantity").cast(pl.Float64)
    value = cents("price").cast(pl.Float64) * units  # whole numbers: their sums are the same in any order
    weight = pl.when(of_order(value) != 0).then(value).when(of_order(units) != 0).then(units).otherwise(1.0)
    so_far = (weight.cum_sum().over("position") / of_order(weight)).clip(0, 1)
    is_last = (pl.col("position") != pl.col("position").shift(-1)).fill_null(value=True)
    total = cents("total")
    part = (total.cast(pl.Float64) * so_far).round().cast(pl.Int64)
    part = part.clip(pl.min_horizontal(total, 0), pl.max_horizontal(total, 0))  # a float may lie beyond the total
    paid = pl.when(is_last).then(total).otherwise(part)
    share = paid - paid.shift(1).over("position").fill_null(0)
    return (share.cast(pl.Decimal(38, 2)) / 100).cast(pl.Decimal(18, 2))


def cents(amount: str) -> pl.Expr:
    """An amount of money in whole cents; 0 where there is none."""
    return (pl.col(amount).fill_null(0).cast(pl.Decimal(38, 2)) * 100).cast(pl.Int64)


def of_order(values: pl.Expr) -> pl.Expr:
    return values.sum().over("position")


def first_rows(catalog: pl.DataFrame) -> pl.DataFrame:
    """Per page, by its `position`, the row at which its impressions begin."""
    shown = pl.col("shown_products").list.len()
    return catalog.select(shown_at="position", first_row=shown.cum_sum() - shown)


def _credited(actions: pl.DataFrame, impressions: pl.DataFrame, first_rows: pl.DataFrame) -> pl.DataFrame:
    """The actions with the latest earlier page of their session that showed the product, and its place there."""
    shown = impressions.select("key", "position", "listing_id", shown_at="position").with_row_index("row")
    shown = shown.join(actions, on="key", how="semi").join(first_rows, on="shown_at", how="left")
    shown = shown.with_columns(place=place_on_page()).drop("row", "first_row")
    # Of a product that a page shows twice the last one counts: the first place.
    shown = shown.sort("position", "place", descending=[False, True])
    return actions.join_asof(shown, on="position", by="key", strategy="backward", check_sortedness=False)


def place_on_page() -> pl.Expr:
    """The place of an impression among those of its page, from 1; places beyond the last that fits are the last."""
    place = pl.col("row") - pl.col("first_row") + 1
    return place.clip(upper_bound=_LAST_PLACE).cast(pl.UInt16)
