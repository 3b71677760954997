"""What typing costs a call: by the demo shop's map, and by the map of a GraphQL shop with the same calls.

The GraphQL calls say what the demo's say: one address, the operation in the request, the answer under its name. So the
map of the GraphQL shop is conditions on one path.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from app.frames.events import type_calls
from app.rules.endpoint_map import EndpointMap, load_endpoint_map, parse_endpoint_map
from app.settings import SHIPPED_ENDPOINT_MAPS
from bench.data import base_frame

_QUERY = "query {0}($input: Input!) {{ {0}(input: $input) {{ total items {{ id price stock }} id price currency }} }}"
_COMPARED = ("event", "product_id", "order_id", "revenue", "search_query", "page", "results_total", "shown_products")
_GRAPHQL_CALL = """
[[call]]
event = "{event}"
method = "POST"
path = "/graphql"
when = "request.body.operationName == '{event}'"
"""
_GRAPHQL_FIELDS: dict[str, dict[str, str]] = {
    "catalog": {
        **{
            name: f"request.body.variables.{name}"
            for name in ("section", "material", "metal", "price_min", "price_max")
        },
        **{name: f"request.body.variables.{name}" for name in ("page", "per_page", "sort")},
        "search_query": "request.body.variables.q",
        "results_total": "response.data.catalog.total",
        "shown_products": "response.data.catalog.items[].id",
    },
    "product_view": {"product_id": "request.body.variables.id", "price": "response.data.product_view.price"},
    "favorite_add": {"product_id": "request.body.variables.product_id"},
    "favorite_remove": {"product_id": "request.body.variables.id"},
    "cart_view": {},
    "cart_add": {"product_id": "request.body.variables.product_id", "quantity": "request.body.variables.quantity"},
    "cart_remove": {"product_id": "request.body.variables.id"},
    "checkout": {},
    "purchase": {
        "order_id": "response.data.purchase.order_id",
        "revenue": "response.data.purchase.total",
        "currency": "response.data.purchase.currency",
        "order_products": "response.data.purchase.items[].product_id",
        "order_quantities": "response.data.purchase.items[].quantity",
        "order_prices": "response.data.purchase.items[].price",
    },
}


@dataclass(frozen=True)
class _Shop:
    """A shop's calls, their documents and its map."""

    calls: pl.DataFrame
    documents: pa.Table
    endpoint_map: EndpointMap

    @property
    def bytes_a_call(self) -> float:
        return float(sum(column.nbytes for column in self.documents.columns) / self.calls.height)

    def events(self) -> pl.DataFrame:
        return type_calls(self.calls, self.documents, endpoint_map=self.endpoint_map).calls


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.endpoint_map", description=__doc__)
    parser.add_argument("--calls", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    demo = _demo_shop(options.calls)
    events = demo.events()
    graphql = _graphql_shop(demo, events["event"])
    _require_equal(events, graphql.events())
    shops = {"demo": demo, "GraphQL": graphql}
    costs = _least_cpu({name: shop.events for name, shop in shops.items()}, options.rounds)
    table = Table(title=f"CPU of typing {options.calls:,} calls, the least of {options.rounds} rounds")
    for heading in ("map", "bytes a call", "microseconds a call", "ratio"):
        table.add_column(heading, justify="left" if heading == "map" else "right")
    for name, shop in shops.items():
        cost = costs[name] / options.calls * 1e6
        table.add_row(name, f"{shop.bytes_a_call:.0f}", f"{cost:.1f}", f"{costs[name] / costs['demo']:.2f}")
    Console(width=80).print(table)


def _least_cpu(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The CPU seconds of each work, the least of some rounds in which they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    return {name: min(taken) for name, taken in seconds.items()}


def _demo_shop(count: int) -> _Shop:
    frame = base_frame(count)
    endpoint_map = load_endpoint_map(SHIPPED_ENDPOINT_MAPS / "demo.toml")
    return _shop(frame.select("method", "endpoint", "status"), frame["request"], frame["response"], endpoint_map)


def _graphql_shop(demo: _Shop, events: pl.Series) -> _Shop:
    """The same calls as operations of a GraphQL shop."""
    endpoints = demo.calls["endpoint"].to_list()
    requests, responses = [], []
    for event, endpoint, request, response in zip(
        events, endpoints, *(demo.documents.column(side).to_pylist() for side in ("request", "response")), strict=True
    ):
        said = json.loads(request) if request else {}
        variables = {**(said.get("query") or {}), **(said.get("body") or {})}
        if event in {"product_view", "favorite_remove", "cart_remove"}:
            variables["id"] = endpoint.rpartition("/")[2]
        body = {"operationName": event, "query": _QUERY.format(event), "variables": variables}
        requests.append(_compact({"query": {}, "body": body}))
        responses.append(f'{{"data":{{"{event}":{response or "null"}}}}}')
    calls = demo.calls.select(method=pl.lit("POST"), endpoint=pl.lit("/graphql"), status="status")
    return _shop(calls, pl.Series(requests), pl.Series(responses), parse_endpoint_map(_graphql_map(), source="bench"))


def _graphql_map() -> str:
    return "".join(
        _GRAPHQL_CALL.format(event=event) + "".join(f'fields.{name} = "{path}"\n' for name, path in fields.items())
        for event, fields in _GRAPHQL_FIELDS.items()
    )


def _shop(calls: pl.DataFrame, requests: pl.Series, responses: pl.Series, endpoint_map: EndpointMap) -> _Shop:
    sides = {"request": requests, "response": responses}
    documents = {
        name: side.cast(pl.String).to_arrow(compat_level=pl.CompatLevel.oldest()) for name, side in sides.items()
    }
    calls = calls.with_columns(pl.col("status").cast(pl.UInt16)).with_row_index("document")
    return _Shop(calls, pa.table(documents), endpoint_map)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _require_equal(demo: pl.DataFrame, graphql: pl.DataFrame) -> None:
    for name in _COMPARED:
        if not demo[name].equals(graphql[name]):
            raise SystemExit(f"the two maps read {name} differently")


if __name__ == "__main__":
    main()
