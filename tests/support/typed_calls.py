"""Calls as records of a log, typed by an endpoint map."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from app.frames.events import TypedCalls, type_calls
from app.frames.money import MONEY
from app.rules.endpoint_map import MONEY_FIELDS, EndpointMap, Lookup, load_endpoint_map, parse_endpoint_map
from app.settings import SHIPPED_ENDPOINT_MAPS

DEMO = load_endpoint_map(SHIPPED_ENDPOINT_MAPS / "demo.toml")


def map_of(text: str) -> EndpointMap:
    return parse_endpoint_map(text, source="map.toml")


def typed(
    *records: dict[str, Any],
    endpoint_map: EndpointMap | str = DEMO,
    lookups: Mapping[Lookup, pl.DataFrame] | None = None,
    documents: Mapping[str, Sequence[str]] | None = None,
) -> TypedCalls:
    """The records as events; those of one `visitor_id` are a session. `documents` are texts in place of the records'."""
    calls = pl.DataFrame(
        {
            "method": [record.get("method", "GET") for record in records],
            "endpoint": [record["endpoint"] for record in records],
            "status": [record.get("status", 200) for record in records],
            "ts": [record.get("ts", "2026-03-04T10:00:00Z") for record in records],
            "visitor": [record.get("visitor_id", "") for record in records],
        },
        schema_overrides={"status": pl.UInt16},
    )
    calls = calls.with_row_index("document").with_columns(
        pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="ms", time_zone="UTC"),
        session_number=pl.col("visitor").rank("dense").cast(pl.UInt32),
    )
    texts = documents or {
        side: [json.dumps(record[side]) if record.get(side) is not None else "" for record in records]
        for side in ("request", "response")
    }
    table = pa.table({side: pa.array(column, pa.large_string()) for side, column in texts.items()})
    chosen = map_of(endpoint_map) if isinstance(endpoint_map, str) else endpoint_map
    exact = type_calls(calls.drop("visitor"), table, endpoint_map=chosen, lookups=lookups)
    cents = [
        pl.col(name).cast(pl.List(MONEY) if isinstance(dtype, pl.List) else MONEY)
        for name, dtype in exact.calls.schema.items()
        if name in MONEY_FIELDS
    ]
    return TypedCalls(exact.calls.with_columns(cents), exact.unreadable)


def event_of(record: dict[str, Any], endpoint_map: EndpointMap | str = DEMO) -> dict[str, Any]:
    """What one call alone becomes; amounts as text, filters as a dict."""
    return events_of(record, endpoint_map=endpoint_map)[0]


def events_of(*records: dict[str, Any], endpoint_map: EndpointMap | str = DEMO) -> list[dict[str, Any]]:
    """What the calls become; amounts as text, filters as a dict."""
    rows = typed(*records, endpoint_map=endpoint_map).calls.to_dicts()
    return [{name: _plain(name, value) for name, value in row.items()} for row in rows]


def _plain(name: str, value: Any) -> Any:
    if name == "filters":
        return dict(value) if isinstance(value, dict) else {one["key"]: one["value"] for one in value}
    if type(value).__name__ == "Decimal":
        return str(value)
    return [_plain("", one) for one in value] if isinstance(value, list) else value
