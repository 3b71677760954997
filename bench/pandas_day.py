"""pandas: all four tables from the day's rows in a Parquet file, written to Parquet files.

Column-wise wherever pandas can, `json.loads` per row if the event needs its JSON, sessions by sort, diff and cumsum.
The whole day is one frame. Money is a float here, rounded for the comparison.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from bench.day import DAY, Dataset
from bench.measure import Contender, Outcome

_Json = dict[str, Any]
_Parser = Callable[[_Json], _Json]
_TIMEOUT = pd.Timedelta(minutes=30)
_SINGLE = ("product_view", "favorite_add", "favorite_remove", "cart_add", "cart_remove")
_FILTERS = ("section", "material", "metal")
_PRODUCT_IN_PATH = re.compile(r"^/api/v1/(products|favorites|cart/items)/([^/]+)$")
_EVENTS = {
    ("GET", "/api/v1/catalog"): "catalog", ("GET", "/api/v1/products/"): "product_view",
    ("POST", "/api/v1/favorites"): "favorite_add", ("DELETE", "/api/v1/favorites/"): "favorite_remove",
    ("GET", "/api/v1/cart"): "cart_view", ("POST", "/api/v1/cart/items"): "cart_add",
    ("DELETE", "/api/v1/cart/items/"): "cart_remove", ("POST", "/api/v1/checkout"): "checkout",
    ("POST", "/api/v1/orders"): "purchase",
}  # fmt: skip
_COLUMNS = [
    "call_id", "ts", "visitor_id", "session_token", "user_id", "method", "endpoint", "status", "duration_ms", "ip",
    "user_agent", "referrer", "page_url", "request", "response",
]  # fmt: skip


@contextmanager
def contender(day: Dataset) -> Iterator[Contender]:
    folder = day.folder / "pandas"
    folder.mkdir(exist_ok=True)
    yield Contender(lambda: _build(day, folder), lambda sessions: _outcome(folder, sessions))
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _build(day: Dataset, folder: Path) -> None:
    calls = _with_sessions(pd.read_parquet(day.parquet, columns=_COLUMNS))
    events = _events(calls)
    events.drop(columns=["user_agent", "referrer", "page_url"]).to_parquet(folder / "events.parquet")
    orders = events[events["event"] == "purchase"].drop_duplicates(["session_id", "order_id"])
    _sessions(events, orders).to_parquet(folder / "sessions.parquet")
    pages = _pages(events)
    shown = pages[["session_id", "visitor_id", "ts", "seq", "listing_id", "shown_products"]]
    shown = shown.explode("shown_products").rename(columns={"shown_products": "product_id"})
    actions = _actions(events, orders, shown)
    _catalog_sessions(pages, actions).to_parquet(folder / "catalog_sessions.parquet")
    _product_sessions(shown, actions).to_parquet(folder / "product_sessions.parquet")


def _outcome(folder: Path, sessions_file: Path) -> Outcome:
    rows = {path.stem: pq.read_metadata(path).num_rows for path in folder.glob("*.parquet")}
    products = pd.read_parquet(
        folder / "product_sessions.parquet", columns=["impressions", "views", "units_bought", "revenue", "listing_id"]
    ).sum()
    catalog = pd.read_parquet(
        folder / "catalog_sessions.parquet",
        columns=["listing_id", "products_clicked", "products_carted", "products_bought"],
    ).sum()
    sums = dict(zip(("impressions", "views", "units", "revenue_cents", "product_listings"), products, strict=True))
    sums |= dict(zip(("listings", "clicked", "carted", "bought"), catalog, strict=True))
    sums["revenue_cents"] *= 100
    sessions = pd.read_parquet(folder / "sessions.parquet")
    sessions["started_at"] = sessions["started_at"].dt.as_unit("ms").astype("int64")
    sessions["revenue_cents"] = (sessions["revenue"] * 100).round().astype("int64")
    sessions.to_parquet(sessions_file)
    return Outcome(rows, {name: round(float(total)) for name, total in sums.items()})


# ---- events ------------------------------------------------------------------------------------------------------


def _with_sessions(calls: pd.DataFrame) -> pd.DataFrame:
    anonymous = "anonymous-" + pd.util.hash_pandas_object(calls["ip"] + calls["user_agent"], index=False).astype(str)
    visitor = calls["visitor_id"].where(calls["visitor_id"] != "", calls["session_token"])
    calls["visitor_id"] = visitor.where(visitor != "", anonymous)
    calls = calls.sort_values(["visitor_id", "ts", "call_id"], ignore_index=True)
    opens = (calls["visitor_id"] != calls["visitor_id"].shift()) | (calls["ts"].diff() > _TIMEOUT)
    session = opens.cumsum().to_numpy() - 1
    firsts = calls.loc[opens, ["visitor_id", "ts"]]
    ids = firsts["visitor_id"] + "-" + (firsts["ts"].astype("int64")).astype(str)
    calls["session_id"] = ids.to_numpy()[session]
    return calls


def _events(calls: pd.DataFrame) -> pd.DataFrame:
    """The calls, typed; parsed event by event, so that a row's JSON is decoded at most once a side."""
    path = calls["endpoint"].str.extract(_PRODUCT_IN_PATH.pattern)
    base = calls["endpoint"].where(path[1].isna(), "/api/v1/" + path[0] + "/")
    names = pd.Series(_EVENTS).rename("event")
    keys = pd.MultiIndex.from_arrays([calls["method"], base])
    calls["event"] = pd.Series(names.reindex(keys).to_numpy(), index=calls.index).fillna("other")
    calls.loc[calls["status"] >= 400, "event"] = "other"
    calls["product_id"] = path[1].where(calls["event"].isin(_SINGLE), "").fillna("")
    parsed = [
        _parsed(calls, event, column, parse)
        for event, column, parse in (
            ("catalog", "request", _asked), ("catalog", "response", _found), ("product_view", "response", _price),
            ("favorite_add", "request", _body), ("cart_add", "request", _body), ("purchase", "response", _bought),
        )
    ]  # fmt: skip
    calls = calls.drop(columns=["request", "response", "session_token", "ip", "method"])
    for columns in parsed:
        for name in columns:
            if name in calls:
                calls.loc[columns.index, name] = columns[name]
            else:
                calls[name] = columns[name]
    calls["search_query"] = calls["search_query"].fillna("").str.strip()
    calls["event_date"] = calls["ts"].dt.date
    return calls


def _parsed(calls: pd.DataFrame, event: str, column: str, parse: _Parser) -> pd.DataFrame:
    documents = calls.loc[calls["event"] == event, column]
    return pd.DataFrame([parse(json.loads(document)) for document in documents], index=documents.index)


def _asked(request: _Json) -> _Json:
    query = request["query"]
    return {
        "search_query": query.get("q", ""), "section": query.get("section", []), "material": query.get("material", []),
        "metal": query.get("metal", []), "price_min": query.get("price_min"), "price_max": query.get("price_max"),
        "page": query.get("page"), "per_page": query.get("per_page"), "sort": query.get("sort", ""),
    }  # fmt: skip


def _found(response: _Json) -> _Json:
    return {"results_total": response["total"], "shown_products": [str(item["id"]) for item in response["items"]]}


def _price(response: _Json) -> _Json:
    return {"price": response["price"]}


def _body(request: _Json) -> _Json:
    body = request["body"]
    return {"product_id": str(body["product_id"]), "quantity": body.get("quantity")}


def _bought(response: _Json) -> _Json:
    items = response["items"]
    return {
        "order_id": response["order_id"], "revenue": response["total"], "currency": response["currency"],
        "quantity": sum(item["quantity"] for item in items),
        "order_products": [str(item["product_id"]) for item in items],
        "order_quantities": [item["quantity"] for item in items],
        "order_prices": [item["price"] for item in items],
    }  # fmt: skip


# ---- sessions ----------------------------------------------------------------------------------------------------


def _sessions(events: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    by_session = events.groupby("session_id", sort=False)
    sessions = by_session.agg(
        visitor_id=("visitor_id", "first"), started_at=("ts", "first"), ended_at=("ts", "last"), calls=("ts", "size")
    )
    counts = pd.crosstab(events["session_id"], events["event"]).reindex(sessions.index)
    sessions["errors"] = (events["status"] >= 400).groupby(events["session_id"], sort=False).sum()
    searches = events.loc[(events["event"] == "catalog") & (events["search_query"] != ""), "session_id"].value_counts()
    sessions["searches"] = searches.reindex(sessions.index, fill_value=0)
    for name, event in (
        ("catalog_views", "catalog"), ("product_views", "product_view"), ("favorites_added", "favorite_add"),
        ("favorites_removed", "favorite_remove"), ("cart_adds", "cart_add"), ("cart_removes", "cart_remove"),
        ("checkouts", "checkout"),
    ):  # fmt: skip
        sessions[name] = counts[event]
    views = events.loc[events["event"] == "product_view", ["session_id", "product_id"]].drop_duplicates()
    sessions["products_viewed"] = views["session_id"].value_counts().reindex(sessions.index, fill_value=0)
    bought = orders.groupby("session_id").agg(
        orders=("ts", "size"), units=("quantity", "sum"), revenue=("revenue", "sum")
    )
    sessions = sessions.join(bought).fillna({"orders": 0, "units": 0, "revenue": 0.0})
    sessions["session_date"] = sessions["started_at"].dt.date
    sessions["duration_s"] = (sessions["ended_at"] - sessions["started_at"]).dt.total_seconds()
    sessions["user_id"] = _of_session(events, "user_id", keep="last").reindex(sessions.index, fill_value="")
    sessions["user_type"] = np.where(sessions["user_id"] == "", "guest", "registered")
    steps = (
        ("purchase", counts["purchase"]), ("checkout", counts["checkout"]), ("cart", counts["cart_add"]),
        ("product", counts["product_view"]), ("catalog", counts["catalog"]),
    )  # fmt: skip
    sessions["furthest_step"] = np.select([count > 0 for _, count in steps], [step for step, _ in steps], "visit")
    sessions["is_bounce"] = sessions["calls"] - counts["other"] <= 1
    return _with_arrival(sessions, events).reset_index()


def _of_session(events: pd.DataFrame, column: str, *, keep: str = "first") -> pd.Series:
    """The first (or last) text of each session that is not empty."""
    filled = events.loc[events[column] != "", ["session_id", column]].drop_duplicates("session_id", keep=keep)
    return filled.set_index("session_id")[column]


def _with_arrival(sessions: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    agent = _of_session(events, "user_agent").reindex(sessions.index, fill_value="")
    sessions = sessions.join(
        pd.DataFrame({name: _device(name) for name in agent.unique()}).T.reindex(agent).set_index(agent.index)
    )
    sessions["referrer"] = _of_session(events, "referrer").reindex(sessions.index, fill_value="")
    sessions["referrer_host"] = (
        sessions["referrer"].str.extract(r"^[a-z]+://(?:www\.)?([^:/?#]+)")[0].fillna("").str.lower()
    )
    sessions["landing_page"] = _of_session(events, "page_url").str.replace(r"[?#].*$", "", regex=True)
    tagged = events[
        events["page_url"].str.contains(r"[?&](?:utm_source|utm_medium|utm_campaign|gclid|msclkid|fbclid)=")
    ]
    campaign = _of_session(tagged, "page_url").reindex(sessions.index, fill_value="")
    parameters = {url: parse_qs(urlsplit(url).query) for url in campaign.unique()}
    for name in ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "utm_id", "gclid"):
        value = campaign.map({url: found.get(name, [""])[0] for url, found in parameters.items()})
        sessions["click_id" if name == "gclid" else name] = value
    medium, host = sessions["utm_medium"], sessions["referrer_host"]
    rules = (
        ("Paid Search", medium.str.contains("cp|ppc|paid") | (sessions["click_id"] != "")),
        ("Email", medium == "email"),
        ("Organic Social", (medium == "social") | host.str.contains("instagram|facebook")),
        ("Organic Search", host.str.contains("google|bing")), ("Referral", host != ""),
    )  # fmt: skip
    sessions["channel"] = np.select([applies for _, applies in rules], [name for name, _ in rules], "Direct")
    return sessions


def _device(agent: str) -> dict[str, str | bool]:
    def first(*rules: tuple[str, str]) -> str:
        return next((value for pattern, value in rules if re.search(pattern, agent)), "")

    device_type = first(
        ("(?i)bot|crawl|spider", "bot"), ("iPad|Tablet", "tablet"), ("iPhone|Mobile", "mobile"), ("Android", "tablet"),
        ("Windows NT|Macintosh|X11", "desktop"), ("", "other"),
    )  # fmt: skip
    return {
        "device_type": device_type,
        "is_bot": device_type == "bot",
        "device_brand": first(("iPhone|iPad|Macintosh", "Apple"), ("SM-", "Samsung"), ("Pixel", "Google")),
        "os": first(
            ("iPhone|iPad", "iOS"),
            ("Android", "Android"),
            ("Windows", "Windows"),
            ("Macintosh", "macOS"),
            ("Linux", "Linux"),
        ),
        "browser": first(("Edg/", "Edge"), ("Chrome/", "Chrome")),
    }


# ---- browsing ----------------------------------------------------------------------------------------------------


def _pages(events: pd.DataFrame) -> pd.DataFrame:
    columns = [
        "session_id", "visitor_id", "call_id", "ts", "search_query", *_FILTERS, "price_min", "price_max", "page",
        "per_page", "sort", "results_total", "shown_products",
    ]  # fmt: skip
    pages = events.loc[events["event"] == "catalog", columns].reset_index(drop=True)
    pages["seq"] = pages.groupby("session_id", sort=False).cumcount() + 1
    filters = [pages[name].map(sorted).map("\x1e".join) for name in _FILTERS]
    prices = [pages[name].astype(str).fillna("") for name in ("price_min", "price_max")]
    listing = pages["search_query"].str.cat([*filters, *prices, pages["sort"]], sep="\x1f")
    code = pd.factorize(pages["session_id"] + "\x1f" + listing)[0]
    is_new = ~pd.Series(code).duplicated()
    so_far = is_new.groupby(pages["session_id"], sort=False).cumsum()
    pages["listing_id"] = so_far.groupby(code).transform("first")
    return pages


def _actions(events: pd.DataFrame, orders: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """What was done with a product, with the latest earlier page of its session that showed it."""
    columns = ["session_id", "visitor_id", "product_id", "ts", "event", "quantity", "price"]
    single = events.loc[events["event"].isin(_SINGLE) & (events["product_id"] != ""), columns].assign(revenue=0.0)
    items = ["order_products", "order_quantities", "order_prices"]
    bought = orders[["session_id", "visitor_id", "ts", "event", *items]].explode(items)
    bought = bought.rename(columns=dict(zip(items, ["product_id", "quantity", "price"], strict=True)))
    bought["revenue"] = bought["quantity"].astype(float) * bought["price"].astype(float)
    actions = pd.concat([single, bought.astype({"quantity": float, "price": float})]).sort_values("ts")
    keys = actions[["session_id", "product_id"]].drop_duplicates()
    pages = shown[["session_id", "product_id", "ts", "seq", "listing_id"]].merge(keys, on=["session_id", "product_id"])
    return pd.merge_asof(actions, pages.sort_values("ts"), on="ts", by=["session_id", "product_id"])


def _catalog_sessions(pages: pd.DataFrame, actions: pd.DataFrame) -> pd.DataFrame:
    led_to = actions.dropna(subset="seq").drop_duplicates(["session_id", "seq", "event", "product_id"])
    outcomes = pd.crosstab([led_to["session_id"], led_to["seq"]], led_to["event"])
    pages = pages.merge(
        outcomes[["product_view", "cart_add", "purchase"]].reset_index(), on=["session_id", "seq"], how="left"
    ).rename(columns={"product_view": "products_clicked", "cart_add": "products_carted", "purchase": "products_bought"})
    counts = ["products_clicked", "products_carted", "products_bought"]
    pages[counts] = pages[counts].fillna(0).astype(int)
    has_price = pages["price_min"].notna() | pages["price_max"].notna()
    pages["filters_used"] = sum((pages[name].str.len() > 0).astype(int) for name in _FILTERS) + has_price
    pages["page"] = pages["page"].fillna(1)
    pages["results_shown"] = pages["shown_products"].str.len()
    pages["is_search"] = pages["search_query"] != ""
    pages["is_zero_result"] = pages["results_total"] == 0
    pages["session_date"] = DAY
    return pages.drop(columns="shown_products")


def _product_sessions(shown: pd.DataFrame, actions: pd.DataFrame) -> pd.DataFrame:
    key = ["session_id", "product_id"]
    impressions = shown.groupby(key, sort=False).agg(
        visitor_id=("visitor_id", "first"),
        impressions=("ts", "size"),
        shown_at=("ts", "min"),
        shown_in=("listing_id", "first"),
    )
    acted = actions.groupby(key, sort=False).agg(
        acted_visitor=("visitor_id", "first"),
        acted_at=("ts", "min"),
        revenue=("revenue", "sum"),
        price=("price", "last"),
    )
    counts = actions.groupby([*key, "event"]).size().unstack(fill_value=0)  # noqa: PD010 - a pivot table would copy all rows
    units = actions.assign(quantity=actions["quantity"].fillna(1)).groupby([*key, "event"])["quantity"].sum()
    clicks = (
        actions[(actions["event"] == "product_view") & actions["listing_id"].notna()].groupby(key)["listing_id"].first()
    )
    names = {
        "views": "product_view", "favorites_added": "favorite_add", "favorites_removed": "favorite_remove",
        "cart_adds": "cart_add", "cart_removes": "cart_remove", "orders": "purchase",
    }  # fmt: skip
    acted = acted.join(counts.rename(columns={event: name for name, event in names.items()}))
    acted["units_added"] = units.xs("cart_add", level="event")
    acted["units_bought"] = units.xs("purchase", level="event")
    acted["clicked_in"] = clicks
    products = impressions.join(acted, how="outer")
    products["visitor_id"] = products["visitor_id"].fillna(products["acted_visitor"])
    products["first_seen_at"] = products[["shown_at", "acted_at"]].min(axis=1)
    products["listing_id"] = products["clicked_in"].fillna(products["shown_in"])
    filled = ["impressions", *names, "units_added", "units_bought", "revenue"]
    products[filled] = products[filled].fillna(0)
    products["session_date"] = DAY
    for name in ("title", "section", "material", "metal", "list_price", "stock_qty"):
        products[name] = None
    return products.drop(columns=["acted_visitor", "shown_at", "acted_at", "shown_in", "clicked_in"]).reset_index()
