"""How much of each platform's journey a drafted map already counts, without knowing the platform."""

import json
import tomllib
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa

from app.frames.events import type_calls
from app.ops.maps.drafting import draft_map
from app.rules.endpoint_map import parse_endpoint_map
from app.settings import load_settings

JOURNEYS = Path(__file__).parents[2] / "fixtures" / "journeys"
KINDS = ("catalog", "product_view", "cart_add", "purchase")

# Of each kind: calls that come out as it, and calls that are it. Better is welcome; raise the count then.
REACHED = {}


def journey(name: str) -> tuple[list[dict], list[dict]]:
    records = [json.loads(line) for line in (JOURNEYS / f"{name}.ndjson").read_text(encoding="utf-8").splitlines()]
    calls = tomllib.loads((JOURNEYS / f"{name}.toml").read_text(encoding="utf-8"))["call"]
    return records, calls


def events_by(lines: list[str], records: list[dict]) -> pl.DataFrame:
    """What the drafted map makes of the records, in their order."""
    endpoint_map = parse_endpoint_map("\n".join(lines), source="draft")
    visitors = list(dict.fromkeys(record["visitor_id"] for record in records))
    frame = pl.DataFrame(
        {
            "document": pl.Series(range(len(records)), dtype=pl.UInt32),
            "session_number": pl.Series([visitors.index(record["visitor_id"]) for record in records], dtype=pl.UInt32),
            "ts": pl.Series([record["ts"] for record in records]).str.to_datetime(time_unit="ms", time_zone="UTC"),
            "method": [record["method"] for record in records],
            "endpoint": [record["endpoint"] for record in records],
            "status": pl.Series([record.get("status", 0) for record in records], dtype=pl.UInt16),
        }
    ).sort("session_number", "ts", maintain_order=True)
    sides = {
        side: [json.dumps(record[side]) if record.get(side) is not None else "" for record in records]
        for side in ("request", "response")
    }
    order = frame["document"]
    return type_calls(frame, pa.table(sides), endpoint_map=endpoint_map).calls.with_columns(order=order).sort("order")


def reached(name: str) -> dict[str, tuple[int, int, int]]:
    """Per kind: calls that come out as it, calls that are it, and calls that wrongly come out as it."""
    records, calls = journey(name)
    events = events_by(draft_map([str(JOURNEYS / f"{name}.ndjson")], load_settings(_env_file=None)), records)["event"]
    wanted = ["other" if call.get("ignored") else call["event"] for call in calls]
    pairs = Counter(zip(wanted, events, strict=True))
    found = {}
    for kind in KINDS:
        right = pairs[kind, kind]
        found[kind] = (right, wanted.count(kind), events.to_list().count(kind) - right)
    return found
