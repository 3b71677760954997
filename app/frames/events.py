"""Calls to events: what each call was by the endpoint map, and its fields as typed columns."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from app.frames.conditions import holds
from app.frames.documents import Sought, search_documents
from app.frames.fields import EXACT, ID_FIELDS, field_dtype, from_results, kind_of, matched, scalar_dtype, typed
from app.frames.json_fields import comparable_text, decode_document, extract
from app.frames.recall import MEMORY_SCHEMA, looked_up, recalled, remembered
from app.frames.routes import placeholder_values, with_routes
from app.frames.unread_bodies import count_unread_bodies
from app.rules.embedded_text import from_form
from app.rules.endpoint_map import (
    FIELDS,
    LIST_FIELDS,
    ORDER_ITEM_FIELDS,
    OTHER,
    PARALLEL_FIELDS,
    PRODUCT_EVENTS,
    EndpointMap,
    Lookup,
    MappedCall,
    Reading,
)
from app.rules.expressions import (
    DOCUMENTS,
    AllOf,
    Condition,
    Expression,
    Search,
    Test,
    conjuncts,
    is_true,
    leaves_of,
    roots_of,
)
from app.rules.field_path import ITEMS, FieldPath, Kind

FAILED_STATUS = 400
FILTERS = pl.Map(pl.String(), pl.List(pl.String()))
_MOST_DECIMALS = 18  # of an exact amount
_ABOUT_ANSWER = {"response", "status"}
_NO_FILTERS = pl.List(pl.Struct({"key": pl.String(), "value": pl.List(pl.String())}))
TYPED_SCHEMA: dict[str, pl.DataType] = {
    "event": pl.String(),
    "map_entry": pl.String(),
    "is_error": pl.Boolean(),
    **{name: field_dtype(name) for name in FIELDS},
    "filters": FILTERS,
}


@dataclass(frozen=True)
class TypedCalls:
    """Calls with `event`, every field of the endpoint map, `filters`, `map_entry` and `is_error`; amounts are exact.

    `unreadable` counts by entry and field the values that could not be read; under an empty field documents that are
    not JSON objects, under the names of UNREAD_BODIES bodies that the shop's middleware could not read.
    """

    calls: pl.DataFrame
    unreadable: Counter[tuple[str, str]]


def type_calls(
    calls: pl.DataFrame,
    documents: pa.Table,
    *,
    endpoint_map: EndpointMap,
    lookups: Mapping[Lookup, pl.DataFrame] | None = None,
) -> TypedCalls:
    """The calls with their event and its fields.

    In: calls with `method, endpoint, status, document`, the last being their row in `documents`, which holds `request`
    and `response` as Arrow text; in call order, with `session_number`, where the map recalls, and with `ts` where it
    looks up. A failed call (status 400 or above) and one that the map does not know are `other`. Text fields are empty
    where there is no value, numbers null, lists empty. Rows keep their order.
    """
    calls, documents = _with_query_of_endpoint(calls, documents)
    known, routes = with_routes(calls.with_row_index("row"), endpoint_map)
    entries: list[_Entry] = []
    failed: list[pl.Series] = []
    for route, candidates in enumerate(routes):
        rows = known.filter((pl.col("route") == route) & (pl.col("status") < FAILED_STATUS))
        if candidates and not rows.is_empty():
            found, lost_orders = _assigned(rows, [(n, endpoint_map.calls[n]) for n in candidates], documents)
            entries += found
            failed.append(lost_orders)
    memory = pl.concat([pl.DataFrame(schema=MEMORY_SCHEMA), *(entry.memory for entry in entries)])
    unreadable: Counter[tuple[str, str]] = Counter()
    parts = []
    for entry in entries:
        values, lost = _typed_fields(entry, memory, lookups or {})
        parts.append(values)
        unreadable.update({(entry.call.label, name): count for name, count in lost.items()})
    typed_rows = pl.concat([pl.DataFrame(schema={"row": pl.UInt32(), **_PART_SCHEMA}), *parts], how="diagonal")
    events = known.drop("route", "path", "document").join(typed_rows, on="row", how="left", maintain_order="left")
    is_failed_order = pl.col("row").is_in(pl.concat(failed).implode()) if failed else pl.lit(value=False)
    events = events.with_columns(is_error=(pl.col("status") >= FAILED_STATUS) | is_failed_order)
    events = events.drop("row").with_columns(_defaults())
    unreadable.update(count_unread_bodies(events.with_columns(known["document"]), documents))
    return TypedCalls(events, unreadable)


_PART_SCHEMA = {name: dtype for name, dtype in TYPED_SCHEMA.items() if name not in {"is_error", "filters"}} | {
    "filters": _NO_FILTERS
}


def _defaults() -> list[pl.Expr]:
    """Nothing is empty text or an empty list; only a number that is not there is null."""
    return [
        pl.col("event").fill_null(OTHER),
        pl.col("map_entry").fill_null(""),
        pl.col("filters").fill_null([]).cast(FILTERS),
        *(pl.col(name).fill_null("") for name in FIELDS if field_dtype(name) == pl.String()),
        *(pl.col(name).fill_null([]) for name in FIELDS if isinstance(field_dtype(name), pl.List)),
    ]


# ---- the query string of an endpoint -----------------------------------------------------------------------------


def _with_query_of_endpoint(calls: pl.DataFrame, documents: pa.Table) -> tuple[pl.DataFrame, pa.Table]:
    """The calls and documents with the query string of `endpoint` as `request.query` where the request has none."""
    has_query = calls["endpoint"].str.contains("?", literal=True)
    if not has_query.any():
        return calls, documents
    odd = calls.filter(has_query)
    taken = documents.take(odd["document"].to_arrow())
    texts = [
        _request_with_query(request, endpoint)
        for request, endpoint in zip(taken.column("request").to_pylist(), odd["endpoint"], strict=True)
    ]
    request = pa.array(texts, documents.schema.field("request").type)
    added = taken.set_column(taken.schema.get_field_index("request"), documents.schema.field("request"), request)
    first = documents.num_rows
    places = pl.int_range(first, first + odd.height, eager=True).cast(calls["document"].dtype)
    moved = calls["document"].scatter(has_query.arg_true(), places)
    return calls.with_columns(document=moved), pa.concat_tables([documents, added]).combine_chunks()


def _request_with_query(text: str | None, endpoint: str) -> str | None:
    query = from_form(endpoint.partition("?")[2].partition("#")[0])
    if query is None:
        return text
    request = decode_document(text) if text else {}
    if not isinstance(request, dict) or request.get("query"):
        return text
    return json.dumps(request | {"query": query})


# ---- which entry -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """The calls of one entry: their rows, what each reading found and lost there, and what they remember."""

    call: MappedCall
    rows: pl.DataFrame
    columns: dict[str, pl.Series]
    lost: Counter[str]  # values that could not be read, by field
    memory: pl.DataFrame


@dataclass
class _Wanted:
    """What is to be read of some calls, by name."""

    expressions: dict[str, Expression] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)  # of values of fields
    fields: dict[str, str] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)

    def add(
        self, name: str, expression: Expression, kind: Kind, reading: Reading, *, of: str = "", as_list: bool = False
    ) -> None:
        self.expressions[name], self.kinds[name], self.readings[name] = expression, kind, reading
        self.fields[name] = of
        if as_list:
            self.lists.add(name)


def _assigned(
    rows: pl.DataFrame, candidates: Sequence[tuple[int, MappedCall]], documents: pa.Table
) -> tuple[list[_Entry], pl.Series]:
    """The calls of one route by entry; and the rows of purchases that failed by what the answer says."""
    asked = {number: _parts(call.when) for number, call in candidates}
    if any(about_request for about_request, _ in asked.values()):
        rows = _with_conditions(rows, [part for part, _ in asked.values()], documents, candidates)
    entries = []
    failed = [pl.Series(dtype=pl.UInt32)]
    for number, call in candidates:
        about_request, about_answer = asked[number]
        mine = rows.filter(_all_hold(about_request)) if about_request else rows
        if mine.is_empty():
            continue
        entry, missed = _read(mine, call, about_answer, documents)
        if not entry.rows.is_empty():
            entries.append(entry)
            rows = rows.filter(~pl.col("row").is_in(entry.rows["row"].implode()))
        if call.event == "purchase":
            failed.append(missed)
    lost = pl.concat(failed)
    return entries, lost.filter(lost.is_in(rows["row"].implode()))


def _parts(when: Condition | None) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
    """A condition's parts that are about the request alone, and those about the answer."""
    parts = conjuncts(when)
    about_answer = tuple(part for part in parts if roots_of(part) & _ABOUT_ANSWER)
    return tuple(part for part in parts if part not in about_answer), about_answer


def _column_of(leaf: Test | Search) -> str:
    return f"when {leaf.keys}" if isinstance(leaf, Test) else f"when {leaf.expression.text} {leaf.expression.place}"


def _all_hold(conditions: Sequence[Condition]) -> pl.Expr:
    condition = AllOf(tuple(conditions))
    return holds(condition, {leaf: _column_of(leaf) for leaf in leaves_of(condition)})


def _with_conditions(
    rows: pl.DataFrame,
    conditions: Sequence[Sequence[Condition]],
    documents: pa.Table,
    candidates: Sequence[tuple[int, MappedCall]],
) -> pl.DataFrame:
    """The calls with a column for each test and search of the conditions of a route's entries."""
    wanted = _Wanted()
    for parts, (_, call) in zip(conditions, candidates, strict=True):
        _want_conditions(wanted, parts)
        if any("path" in roots_of(part) for part in parts):
            of_path = _Wanted()
            _want_conditions(of_path, [part for part in parts if "path" in roots_of(part)])
            columns, _ = _columns(rows, of_path, documents, call)
            rows = rows.with_columns(column.alias(name) for name, column in columns.items())
            wanted.expressions = {n: e for n, e in wanted.expressions.items() if n not in of_path.expressions}
    columns, _ = _columns(rows, wanted, documents, candidates[0][1])
    return rows.with_columns(column.alias(name) for name, column in columns.items())


def _want_conditions(wanted: _Wanted, conditions: Sequence[Condition]) -> None:
    for leaf in leaves_of(AllOf(tuple(conditions))):
        expression = Expression("", leaf.keys) if isinstance(leaf, Test) else leaf.expression
        wanted.add(_column_of(leaf), expression, Kind.ANY, Reading(expression))


def _read(
    rows: pl.DataFrame, call: MappedCall, conditions: Sequence[Condition], documents: pa.Table
) -> tuple[_Entry, pl.Series]:
    """What an entry's readings find in its calls; and the rows of calls that miss its conditions on the answer."""
    wanted = _Wanted()
    _want_conditions(wanted, conditions)
    has_lists = _is_about_several(call)
    for name, readings in (*call.fields.items(), *call.filters.items()):
        for place, reading in enumerate(readings):
            _want_reading(wanted, f"{name}.{place}", name, reading, as_list=has_lists)
    for place, memory in enumerate(call.memories):
        for part, expression in (("value", memory.value), ("key", memory.key)):
            if expression:
                reading = Reading(expression)
                column = f"remember.{place}.{part}"
                of = f"remember.{memory.name}"
                wanted.add(column, expression, Kind.TEXT, reading, of=of, as_list=not expression.is_plain)
    columns, lost = _columns(rows, wanted, documents, call)
    missed = pl.Series(dtype=pl.UInt32)
    if conditions:
        tested = rows.with_columns(columns[name].alias(name) for name in columns if name.startswith("when "))
        is_met = tested.select(_all_hold(conditions).fill_null(value=False)).to_series()
        missed = rows["row"].filter(~is_met)
        rows = rows.filter(is_met)
        columns = {name: column.filter(is_met) for name, column in columns.items()}
        lost = {name: [place for place in places if is_met[place]] for name, places in lost.items()}
    said = [
        remembered(rows, memory.name, columns[f"remember.{place}.value"], columns.get(f"remember.{place}.key"))
        for place, memory in enumerate(call.memories)
        if rows.height
    ]
    memory_of_rows = pl.concat([pl.DataFrame(schema=MEMORY_SCHEMA), *said])
    return _Entry(call, rows, columns, _counted(lost, wanted), memory_of_rows), missed


def _counted(lost: Mapping[str, list[int]], wanted: _Wanted) -> Counter[str]:
    """By field the number of values that could not be read; of the document itself those of calls, not of readers."""
    counts: Counter[str] = Counter()
    for name, places in lost.items():
        counts[wanted.fields.get(name, "")] += len(places)
    return +counts


def _is_about_several(call: MappedCall) -> bool:
    """Whether a call of the entry can be about several products, so that its fields are lists."""
    readings = call.fields.get("product_id", ()) if call.event in PRODUCT_EVENTS else ()
    return any((not r.is_plain or ITEMS in r.expression.keys) if r.expression else r.recall for r in readings)


def _want_reading(wanted: _Wanted, name: str, field_name: str, reading: Reading, *, as_list: bool) -> None:
    if isinstance(reading.minor_units, Expression):
        wanted.add(f"{name}.minor_units", reading.minor_units, Kind.NUMBER, Reading(reading.minor_units))
    if reading.expression is None:
        return
    kind = Kind.TEXT if reading.takes_text and kind_of(field_name) is not Kind.TEXTS else kind_of(field_name)
    is_list = field_name in LIST_FIELDS or kind is Kind.TEXTS or (as_list and field_name in PARALLEL_FIELDS)
    wanted.add(name, reading.expression, kind, reading, of=field_name, as_list=is_list)


def _columns(
    rows: pl.DataFrame, wanted: _Wanted, documents: pa.Table, call: MappedCall
) -> tuple[dict[str, pl.Series], dict[str, list[int]]]:
    """A column per wanted name: text, numbers or lists of these; conditions as comparable text or as true and false.

    And by name the positions of calls whose value could not be read.
    """
    columns: dict[str, pl.Series] = {}
    lost: dict[str, list[int]] = {}
    by_root: dict[str, list[FieldPath]] = {name: [] for name in DOCUMENTS}
    sought: list[Sought] = []
    reads_path = any("path" in expression.roots for expression in wanted.expressions.values())
    placeholders = placeholder_values(rows["path"], call.pattern, call.pattern.placeholders if reads_path else ())
    for name, expression in wanted.expressions.items():
        reading = wanted.readings[name]
        if not expression.is_plain or reading.decode:
            sought.append(Sought(name, expression, reading.decode))
        elif expression.keys[0] in DOCUMENTS:
            by_root[expression.keys[0]].append(FieldPath(name, wanted.kinds[name], expression.keys[1:]))
        else:
            values = _of_call(rows, placeholders, expression)
            columns[name] = _comparable(values) if wanted.kinds[name] is Kind.ANY else values
    for root, paths in by_root.items():
        if paths:
            extraction = extract(documents.column(root).take(rows["document"].to_arrow()), paths)
            columns |= {path.name: extraction.values[path.name] for path in paths}
            lost |= {name or f"{root} itself": places for name, places in extraction.unreadable.items()}
    if sought:
        found = search_documents(rows, documents, sought, pl.DataFrame(placeholders))
        for one in sought:
            columns[one.name], missed = _column_from(found.values[one.name], one.name, wanted)
            lost[one.name] = missed + found.too_costly[one.name]
    return columns, lost


def _of_call(rows: pl.DataFrame, placeholders: Mapping[str, pl.Series], expression: Expression) -> pl.Series:
    """What a plain path reads of the call itself: a placeholder, the method, the endpoint or the status."""
    if expression.keys[0] == "path":
        return placeholders.get(expression.keys[1], _nothing(rows.height))
    return rows[expression.keys[0]].cast(pl.String)


def _comparable(texts: pl.Series) -> pl.Series:
    return pl.Series(comparable_text(texts.to_arrow(compat_level=pl.CompatLevel.oldest())))


def _nothing(height: int) -> pl.Series:
    return pl.Series([None], dtype=pl.String).new_from_index(0, height)


def _column_from(results: list[object], name: str, wanted: _Wanted) -> tuple[pl.Series, list[int]]:
    if wanted.kinds[name] is Kind.ANY:
        return pl.Series([is_true(result) for result in results], dtype=pl.Boolean), []
    reading = wanted.readings[name]
    field_name = wanted.fields[name]
    if wanted.kinds[name] is Kind.TEXT:  # keys of other values, and ids
        field_name = field_name if kind_of(field_name) is Kind.TEXT and field_name else "sort"
    elif not field_name:
        field_name = "price"
    return from_results(results, field_name, reading, as_list=name in wanted.lists)


# ---- fields as columns -------------------------------------------------------------------------------------------


def _typed_fields(
    entry: _Entry, memory: pl.DataFrame, lookups: Mapping[Lookup, pl.DataFrame]
) -> tuple[pl.DataFrame, Counter[str]]:
    """One column a field, of several readings the first with a value; and by field how many could not be read."""
    lost = Counter(entry.lost)
    columns = {}
    has_lists = _is_about_several(entry.call)
    for name, readings in (*entry.call.fields.items(), *entry.call.filters.items()):
        dtype = _read_dtype(name, as_list=has_lists)
        values = []
        for place, reading in enumerate(readings):
            found, missed = _value(entry, f"{name}.{place}", reading, of=name, memory=memory, lookups=lookups)
            column, unfit = _as_dtype(found, dtype)
            values.append(column)
            lost[name] += missed + unfit
        columns[name] = _first_with_value(values, name)
    frame = pl.DataFrame({"row": entry.rows["row"]} | columns)
    if has_lists:
        frame = _with_several(frame)
    frame = frame.pipe(_aligned_lists).pipe(_with_filters, entry.call)
    return (
        frame.with_columns(event=pl.lit(entry.call.event), map_entry=pl.lit(entry.call.label)).select(
            "row", *(pl.col(name) for name in _PART_SCHEMA if name in {*frame.columns, "event", "map_entry"})
        ),
        +lost,
    )


def _first_with_value(values: list[pl.Series], name: str) -> pl.Series:
    """Of several readings the first with a value; of lists of ids element by element, where they are as long."""
    found = _unless_empty(values[0])
    for other in map(_unless_empty, values[1:]):
        if name in ID_FIELDS and isinstance(found.dtype, pl.List):
            found = _filled(found, other)
        found = pl.select(pl.coalesce(found, other)).to_series()
    return found.alias(name)


def _unless_empty(values: pl.Series) -> pl.Series:
    """The values, null where a list holds nothing."""
    if not isinstance(values.dtype, pl.List):
        return values
    has_value = pl.col("values").list.drop_nulls().list.len() > 0
    return pl.DataFrame({"values": values}).select(pl.when(has_value).then("values")).to_series()


def _filled(ids: pl.Series, others: pl.Series) -> pl.Series:
    """Lists of ids with the gaps filled from others of the same length."""
    frame = pl.DataFrame({"ids": ids, "others": others}).with_row_index("row")
    alike = frame.filter(pl.col("ids").list.len() == pl.col("others").list.len(), pl.col("ids").list.len() > 0)
    filled = (
        alike.explode("ids", "others", empty_as_null=False, keep_nulls=False)
        .group_by("row", maintain_order=True)
        .agg(filled=pl.coalesce("ids", "others"))
    )
    joined = frame.join(filled, on="row", how="left", maintain_order="left")
    return joined.select(pl.coalesce("filled", "ids")).to_series()


def _read_dtype(name: str, *, as_list: bool) -> pl.DataType:
    """The type of a field's readings: a list where the entry is about several products."""
    scalar = scalar_dtype(name)
    is_list = name in LIST_FIELDS or kind_of(name) is Kind.TEXTS or (as_list and name in PARALLEL_FIELDS)
    return pl.List(scalar) if is_list else scalar


def _value(
    entry: _Entry,
    column: str,
    reading: Reading,
    *,
    of: str,
    memory: pl.DataFrame,
    lookups: Mapping[Lookup, pl.DataFrame],
) -> tuple[pl.Series, int]:
    height = entry.rows.height
    values = entry.columns[column] if reading.expression else pl.Series([reading.const]).new_from_index(0, height)
    values = matched(values, reading.match) if reading.match else values
    if reading.recall:
        values = recalled(entry.rows, _plain_text(values) if reading.expression else None, memory, reading.recall[0])
        for name in reading.recall[1:]:
            values = recalled(entry.rows, _plain_text(values), memory, name)
    if reading.lookup:
        values = looked_up(entry.rows, _plain_text(values), lookups, reading.lookup)
    found, lost = typed(values.alias(of), of, reading)
    if reading.offset_page_size is not None:
        found = _page_of(found, entry, reading.offset_page_size)
    if reading.minor_units is not None:
        found = _in_main_unit(found, entry, column, reading.minor_units)
    return found, lost


def _plain_text(keys: pl.Series) -> pl.Series:
    """Keys as text, or as lists of text."""
    if isinstance(keys.dtype, pl.List):
        return keys.cast(pl.List(pl.String))
    return keys.cast(pl.String)


def _as_dtype(values: pl.Series, dtype: pl.DataType) -> tuple[pl.Series, int]:
    """The values as lists or as scalars; and how many were lists of several where one value is needed."""
    if isinstance(dtype, pl.List) == isinstance(values.dtype, pl.List):
        return values.cast(dtype), 0
    if isinstance(dtype, pl.List):
        wrapped = values.to_frame("v").select(pl.when(pl.col("v").is_not_null()).then(pl.concat_list("v")))
        return wrapped.to_series().cast(dtype).alias(values.name), 0
    given = values.list.drop_nulls()
    counts = given.list.len()
    single = given.to_frame("v").select(
        pl.when(pl.col("v").list.len() == 1).then(pl.col("v").list.get(0, null_on_oob=True))
    )
    return single.to_series().cast(dtype).alias(values.name), int((counts > 1).sum())


def _page_of(offsets: pl.Series, entry: _Entry, page_size: int) -> pl.Series:
    """The page, from 1, on which an offset lies; `page_size` where the call does not say one."""
    said = [name for name in entry.columns if name.startswith("per_page.")]
    sizes = [typed(entry.columns[name], "per_page", entry.call.fields["per_page"][n])[0] for n, name in enumerate(said)]
    size = pl.coalesce(*sizes, pl.lit(page_size or None, pl.UInt32))
    pages = offsets.to_frame("offset").select(pl.when(size > 0).then(pl.col("offset") // size + 1))
    return pages.to_series().cast(pl.UInt32)


def _in_main_unit(amounts: pl.Series, entry: _Entry, column: str, minor_units: int | Expression) -> pl.Series:
    """Amounts in cents as amounts in the main unit."""
    if isinstance(minor_units, int):
        return _divided(amounts, minor_units)
    said = entry.columns[f"{column}.minor_units"]
    exponents, _ = typed(said, "page", Reading())
    exponents, _ = _as_dtype(exponents, pl.UInt32())
    result = amounts.clear(len(amounts))
    for exponent in exponents.drop_nulls().unique():
        is_one = (exponents == exponent).fill_null(value=False)
        divided = _divided(amounts, min(int(exponent), _MOST_DECIMALS))
        result = pl.select(pl.when(is_one).then(divided).otherwise(result)).to_series()
    return result


def _divided(amounts: pl.Series, exponent: int) -> pl.Series:
    """The exact amounts divided by a power of ten."""
    if isinstance(amounts.dtype, pl.List):
        return amounts.list.eval((pl.element() / 10**exponent).cast(EXACT))
    return amounts.to_frame("a").select((pl.col("a") / 10**exponent).cast(EXACT)).to_series()


def _with_several(frame: pl.DataFrame) -> pl.DataFrame:
    """Of calls about several products the lists as those of an order, and the first product as theirs."""
    names = {"product_id": "order_products", "quantity": "order_quantities", "price": "order_prices"}
    is_several = pl.col("product_id").list.len() > 1
    firsts = [
        pl.col(name).list.get(0, null_on_oob=True).alias(name) for name in PARALLEL_FIELDS if name in frame.columns
    ]
    lists = [pl.when(is_several).then(name).alias(names[name]) for name in PARALLEL_FIELDS if name in frame.columns]
    return frame.with_columns(lists).with_columns(firsts)


def _aligned_lists(fields: pl.DataFrame) -> pl.DataFrame:
    """Lists without gaps: a product shown has an id; a line has a product or empty text, and 1 unit, price 0 if unsaid.

    A line without a product is not counted: the units are those of the others.
    """
    if "shown_products" in fields.columns:
        fields = fields.with_columns(
            pl.col("shown_products").list.drop_nulls().list.eval(pl.element().filter(pl.element() != ""))
        )
    if "order_products" not in fields.columns:
        return fields.drop(ORDER_ITEM_FIELDS, strict=False)
    products = pl.col("order_products").list.eval(pl.element().fill_null(""))
    fillers = {"order_quantities": pl.lit(1, pl.UInt32), "order_prices": pl.lit(0).cast(EXACT)}
    items = {name: pl.col(name) if name in fields.columns else pl.lit(None, pl.List(pl.Null)) for name in fillers}
    aligned = fields.with_columns(
        products,
        *(
            pl.when(items[name].list.len() == pl.col("order_products").list.len())
            .then(items[name].cast(pl.List(scalar_dtype(name))).list.eval(pl.element().fill_null(filler)))
            .otherwise(filler.repeat_by(pl.col("order_products").list.len()))
            .alias(name)
            for name, filler in fillers.items()
        ),
    )
    return aligned.with_columns(_units(aligned))


def _units(fields: pl.DataFrame) -> pl.Series:
    """The units of each call's lines that have a product; what the call itself says where it has no lines."""
    lines = fields.select("row", "order_products", "order_quantities").explode(
        "order_products", "order_quantities", empty_as_null=False, keep_nulls=False
    )
    units = lines.filter(pl.col("order_products") != "").group_by("row").agg(pl.col("order_quantities").sum())
    joined = fields.join(units, on="row", how="left", maintain_order="left", suffix="_sum")
    said = pl.col("quantity") if "quantity" in fields.columns else pl.lit(None, pl.UInt32)
    has_lines = pl.col("order_products").list.len() > 0
    summed = pl.when(has_lines.fill_null(value=False)).then(pl.col("order_quantities_sum").fill_null(0)).otherwise(said)
    return joined.select(quantity=summed.cast(pl.UInt32)).to_series()


def _with_filters(fields: pl.DataFrame, call: MappedCall) -> pl.DataFrame:
    """The shop's own filters as one list of name and values."""
    if not call.filters:
        return fields
    named = [pl.struct(key=pl.lit(name), value=pl.col(name)) for name in sorted(call.filters)]
    values = pl.concat_list(named).list.eval(pl.element().filter(pl.element().struct.field("value").is_not_null()))
    return fields.with_columns(filters=values).drop(call.filters)
