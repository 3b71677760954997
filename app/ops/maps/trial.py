"""`carat map try`: what an endpoint map makes of calls, without a warehouse and in bounded memory."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from app.core import console
from app.frames.coverage import add_coverages, count_coverage, field_names, has_value, is_unmatched
from app.frames.events import FAILED_STATUS, TypedCalls, type_calls
from app.frames.json_fields import decode_document
from app.frames.product_steps import ProductSteps
from app.frames.routes import fits, normal_path
from app.intake.files import total_bytes
from app.ops.maps.reading import Reading, read_calls
from app.rules.drafting.groups import with_documents
from app.rules.drafting.operations import operation_of
from app.rules.drafting.paths import fold_ids
from app.rules.endpoint_map import EndpointMap
from app.rules.fit import (
    Coverage,
    EntryCount,
    FieldCount,
    Finding,
    find_misfits,
    find_repeated_orders,
    find_strangers,
)
from app.settings import Settings

EXAMPLES = 3
_EXAMPLE_LENGTH = 60
_EXAMPLE_ELEMENTS = 3
_MAX_ENDPOINTS = 20_000
_MAX_ORDER_IDS = 1_000_000
_PART_BYTES = 32 * 1024 * 1024
_FEWEST_PARTS, _MOST_PARTS = 16, 256
_PARTS_OF_STDIN = 64


@dataclass
class Trial:
    """What a map made of calls, added up over parts of them."""

    endpoint_map: EndpointMap
    reading: Reading = field(default_factory=Reading)
    ignored: int = 0
    failed: int = 0
    failed_orders: int = 0
    other: int = 0
    typed: int = 0
    unmatched: Counter[tuple[str, str]] = field(default_factory=Counter)
    steps: ProductSteps = field(default_factory=ProductSteps)
    orders: Counter[str] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _coverage: pl.DataFrame | None = None

    def add(self, calls: pl.DataFrame) -> None:
        """Type some calls by the map and count what came out; a visitor's calls are one session."""
        is_ignored = pl.any_horizontal(pl.lit(value=False), *(fits(one) for one in self.endpoint_map.ignored))
        kept = calls.with_columns(path=normal_path()).filter(~is_ignored).drop("path")
        self.ignored += calls.height - kept.height
        if kept.is_empty():
            return
        visitor = pl.coalesce(
            _unless_blank("visitor_id"), _unless_blank("session_token"), pl.concat_str("ip", "user_agent")
        )
        kept = kept.with_columns(visitor=visitor).sort("visitor", "ts", maintain_order=True).with_row_index("document")
        kept = kept.with_columns(session_number=pl.col("visitor").rle_id())
        sides = {name: kept[name].to_arrow().cast(pa.string()) for name in ("request", "response")}
        frame = kept.select("document", "session_number", "ts", "method", "endpoint", "status")
        typed = type_calls(frame, pa.table(sides), endpoint_map=self.endpoint_map)
        self._count(typed)
        self._count_unmatched(typed.calls.with_columns(request=kept["request"]).filter(is_unmatched()))

    def _count_unmatched(self, calls: pl.DataFrame) -> None:
        """Count calls that fit no entry by method, path and what the request says it does."""
        for method, endpoint, request in calls.select("method", "endpoint", "request").iter_rows():
            operation = operation_of(with_documents(decode_document(request or None), endpoint)).text
            key = (method.upper(), f"{fold_ids(endpoint)} {operation}".rstrip())
            if key not in self.unmatched and len(self.unmatched) >= _MAX_ENDPOINTS:
                key = ("", "…")
            self.unmatched[key] += 1

    def _count(self, typed: TypedCalls) -> None:
        calls = typed.calls
        self.typed += calls.height
        is_failed = pl.col("status") >= FAILED_STATUS
        self.failed += calls.filter(is_failed).height
        self.failed_orders += calls.filter(pl.col("is_error"), ~is_failed).height
        self.other += calls.filter(pl.col("event") == "other").height
        coverage = count_coverage(typed, self.endpoint_map)
        self._coverage = coverage if self._coverage is None else add_coverages([self._coverage, coverage])
        self.steps.add(calls)
        for order in calls.filter(pl.col("event") == "purchase")["order_id"]:
            if order in self.orders or len(self.orders) < _MAX_ORDER_IDS:
                self.orders[order] += 1
        self._keep_examples(calls)

    def _keep_examples(self, calls: pl.DataFrame) -> None:
        parts = calls.partition_by("map_entry", as_dict=True)
        for call in self.endpoint_map.calls:
            own = parts.get((call.label,))
            if own is None:
                continue
            for name in field_names(call):
                kept = self.examples.setdefault((call.label, name), [])
                if len(kept) < EXAMPLES:
                    found = own.filter(has_value(own, name)).head(200)
                    for value in map(_shown, _values(found, name)):
                        if value not in kept and len(kept) < EXAMPLES:
                            kept.append(value)

    @property
    def coverage(self) -> Coverage:
        """The counts per entry and field, as the rules of what looks wrong take them."""
        rows = (self._coverage if self._coverage is not None else pl.DataFrame()).to_dicts()
        entries: dict[str, EntryCount] = {}
        for row in rows:
            label, count = row["map_entry"], FieldCount(row["filled"], row["unreadable"])
            if not row["field"]:
                entries[label] = EntryCount(label, row["event"], row["calls"], {})
            fields = dict(entries[label].fields) | ({row["field"]: count} if row["field"] or count.unreadable else {})
            entries[label] = EntryCount(label, row["event"], row["calls"], fields)
        return Coverage(
            calls=self.typed,
            unmatched=self.unmatched.total(),
            entries=tuple(entries.values()),
            has_currency=bool(self.endpoint_map.currency),
        )

    @property
    def findings(self) -> list[Finding]:
        """What looks wrong, most general first."""
        with_id = {order: count for order, count in self.orders.items() if order}
        orders = find_repeated_orders(sum(with_id.values()), len(with_id), list(with_id)[:EXAMPLES])
        return find_misfits(self.coverage) + orders + find_strangers(self.steps.meetings())

    @property
    def repeated_orders(self) -> dict[str, int]:
        """The order ids of several calls, each with its calls, the most repeated first."""
        return {order: count for order, count in self.orders.most_common() if order and count > 1}


def try_map(endpoint_map: EndpointMap, names: list[str], settings: Settings) -> Trial:
    """What the map makes of the calls in these files.

    Where fields depend on earlier calls of a visitor, the calls are first spread over temporary files by visitor.
    """
    trial = Trial(endpoint_map)
    batches = read_calls(names, settings, trial.reading, label="try")
    if not endpoint_map.has_recall:
        for calls in batches:
            trial.add(calls)
        return trial
    with tempfile.TemporaryDirectory(prefix="carat-map-try-") as folder:
        for calls in _by_visitor(batches, Path(folder), _part_count(names)):
            trial.add(calls)
    return trial


def _part_count(names: list[str]) -> int:
    size = total_bytes(names)
    return _PARTS_OF_STDIN if size is None else min(max(_FEWEST_PARTS, size // _PART_BYTES), _MOST_PARTS)


def _by_visitor(batches: Iterator[pl.DataFrame], folder: Path, part_count: int) -> Iterator[pl.DataFrame]:
    """All calls again, in parts that hold all calls of their visitors."""
    visitor = pl.coalesce(
        _unless_blank("visitor_id"), _unless_blank("session_token"), pl.concat_str("ip", "user_agent")
    )
    first: pl.DataFrame | None = None
    number = 0
    for number, calls in enumerate(batches):
        if first is not None:
            _spread(first, folder, 0, visitor, part_count)
            first = None
        if number == 0:
            first = calls
        else:
            _spread(calls, folder, number, visitor, part_count)
    if first is not None:  # one batch is one part
        yield first
        return
    parts = sorted({path.name.partition("-")[0] for path in folder.iterdir()})
    with console.progress("try", len(parts)) as bar:
        for part in parts:
            yield pl.concat([pl.read_ipc(path) for path in sorted(folder.glob(f"{part}-*.arrow"))])
            bar.advance(1)


def _spread(calls: pl.DataFrame, folder: Path, number: int, visitor: pl.Expr, part_count: int) -> None:
    parts = calls.with_columns(part=visitor.hash(seed=0) % part_count).partition_by("part", as_dict=True)
    for (part,), own in parts.items():
        own.drop("part").write_ipc(folder / f"{part:04}-{number:08}.arrow", compression="lz4")


def _unless_blank(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(name)


def _values(calls: pl.DataFrame, name: str) -> list[Any]:
    if name.startswith("filters."):
        return [dict(filters).get(name.removeprefix("filters.")) for filters in calls["filters"]]
    return calls[name].to_list()


def _shown(value: Any) -> str:
    if isinstance(value, list):
        more = "…" if len(value) > _EXAMPLE_ELEMENTS else ""
        return f"[{', '.join(_shown(one) for one in value[:_EXAMPLE_ELEMENTS])}{more and ', ' + more}]"
    if isinstance(value, Decimal):  # exact amounts have more decimals than a person wants to see
        exact = value.normalize()
        return f"{exact:.2f}" if exact == round(exact, 2) else f"{exact:f}"
    text = str(value)
    return text if len(text) <= _EXAMPLE_LENGTH else text[: _EXAMPLE_LENGTH - 1] + "…"
