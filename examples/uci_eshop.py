"""A real shop's clicks as call records: turns UCI data set 553 into what `carat ingest` takes.

    python examples/uci_eshop.py uci-eshop-2008.csv calls.ndjson.gz
    python examples/uci_eshop.py uci-eshop-2008.csv cut.parquet --from 2008-08-11

The clicks are of 2008: load them with CARAT_MAX_AGE_DAYS=0.

Source: Łapczyński, M. & Białowąs, S., Clickstream Data for Online Shopping, UCI Machine Learning Repository,
data set 553, https://doi.org/10.24432/C5QK7X, licensed under CC BY 4.0. Changed here: codes are written out, each
click becomes API calls, and a clock is made up. What is written out must carry this notice too.

A click is a look at a product, on a page of a listing: one product call. The listing is a catalog call just before the
first click on it, and again when the shopper comes back to it from elsewhere. What else follows from the source:

- A listing's `items` are the products clicked while the shopper stayed on it: no more is known of what it showed.
  Its `total` counts the products of that section and colour anywhere in the file.
- Colour is sent as the filter `metal`: among the filters of the shipped endpoint map that is the one by which a
  jeweller's shopper chooses colour (yellow, white, rose gold). `material` stays free for fabric, which nobody recorded.
- There is a day and an order but no time, so sessions are spread over their day, and clicks lie 5 to 95 seconds apart,
  always in the same way. The longest session takes about 3 hours; none leaves its day, none pauses for 30 minutes.
- There are no visitors either: every session is a visitor of its own.
"""

import argparse
import gzip
import uuid
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import chain
from pathlib import Path

import msgspec
import polars as pl
import pyarrow.parquet as pq

SECTIONS = ("trousers", "skirts", "blouses", "sale")
COLOURS = (
    "beige", "black", "blue", "brown", "burgundy", "gray", "green", "navy blue", "of many colors", "olive", "pink",
    "red", "violet", "white",
)  # fmt: skip
PLACES = ("top left", "top center", "top right", "bottom left", "bottom center", "bottom right")
POSES = ("en face", "profile")

DAY_MS = 24 * 60 * 60 * 1000
LISTING_TO_CLICK_MS = 3_000
SHORTEST_PAUSE_MS = 5_000
LONGEST_PAUSE_MS = 95_000
CLICKS_HELD = 20_000
CALL_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://doi.org/10.24432/C5QK7X")


def read_clicks(path: Path) -> pl.LazyFrame:
    """One row a click, in the file's order: that of sessions, and of clicks in them. `country` is the source's code."""
    return pl.scan_csv(path, separator=";").select(
        "order",
        "country",
        "price",
        "page",
        _named("colour", COLOURS),
        _named("location", PLACES),
        day=pl.date("year", "month", "day"),
        session="session ID",
        section=_named("page 1 (main category)", SECTIONS),
        product="page 2 (clothing model)",
        photography=_named("model photography", POSES),
    )


def calls_in_parts(clicks: pl.LazyFrame, *, since: date = date.min) -> Iterator[pl.DataFrame]:
    """The call records of the sessions from a day on, a few thousand clicks at a time; JSON is text in them."""
    totals = clicks.group_by("section", "colour").agg(total=pl.col("product").n_unique()).collect()
    for part in whole_sessions(clicks.filter(pl.col("day") >= since)):
        timed = part.pipe(with_times)
        yield (
            pl.concat([catalog_calls(timed, totals), product_calls(timed)])
            .sort("session", "ts")
            .pipe(with_call_id)
            .select(
                pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
                pl.lit("GET").alias("method"),
                "endpoint",
                "call_id",
                pl.format("uci-553-{}", "session").alias("visitor_id"),
                "request",
                "response",
            )
        )


def whole_sessions(clicks: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The clicks in frames none of which cuts a session in two."""
    held = pl.DataFrame(schema=clicks.collect_schema())
    for batch in clicks.collect_batches(chunk_size=CLICKS_HELD):
        clicked = held.vstack(batch)
        is_last_session = clicked["session"] == clicked["session"].last()
        yield clicked.filter(~is_last_session)
        held = clicked.filter(is_last_session)
    yield held


def with_times(clicks: pl.DataFrame) -> pl.DataFrame:
    """The clicks with their time `ts`, and `stay`, which numbers the stays on a listing."""
    pause = scattered(pl.col("session") * 1000 + pl.col("order")) % (LONGEST_PAUSE_MS - SHORTEST_PAUSE_MS)
    return (
        clicks.with_columns(
            stay=pl.struct("session", "section", "colour", "page").rle_id(),
            since_start=(SHORTEST_PAUSE_MS + pause).cum_sum().over("session"),
        )
        .with_columns(free_ms=DAY_MS - pl.col("since_start").last().over("session"))
        .with_columns(since_midnight=scattered(pl.col("session")) * pl.col("free_ms") // 2**32 + pl.col("since_start"))
        .with_columns(ts=pl.col("day").cast(pl.Datetime("ms")) + pl.duration(milliseconds="since_midnight"))
    )


def scattered(number: pl.Expr) -> pl.Expr:
    """The same 32-bit number for the same number, neighbours far apart (Knuth's multiplicative hash)."""
    return number * 2_654_435_761 % 2**32


def catalog_calls(clicks: pl.DataFrame, totals: pl.DataFrame) -> pl.DataFrame:
    """The listing of each stay, just before the first click on it."""
    return (
        clicks.group_by("stay", maintain_order=True)
        .agg(
            pl.col("session", "order", "country", "section", "colour", "page", "ts").first(),
            items=pl.struct(id="product").unique(maintain_order=True),
        )
        .join(totals, on=["section", "colour"], how="left", maintain_order="left")
        .select(
            "session",
            "order",
            ts=pl.col("ts") - pl.duration(milliseconds=LISTING_TO_CLICK_MS),
            endpoint=pl.lit("/api/v1/catalog"),
            request=as_json(pl.struct("section", "page", "country", metal="colour").alias("query")),
            response=as_json("total", "items"),
        )
    )


def product_calls(clicks: pl.DataFrame) -> pl.DataFrame:
    """The look at a product that each click is."""
    return clicks.select(
        "session",
        "order",
        "ts",
        endpoint=pl.format("/api/v1/products/{}", "product"),
        request=as_json(pl.struct("country").alias("query")),
        response=as_json(
            pl.col("product").alias("id"), "price", pl.lit("USD").alias("currency"), "colour", "location", "photography"
        ),
    )


def with_call_id(calls: pl.DataFrame) -> pl.DataFrame:
    """The calls with an id that is the same however often and in whatever parts the file is read."""
    names = calls.select(pl.format("{}/{}{}", "session", "order", "endpoint")).to_series()
    return calls.with_columns(call_id=pl.Series([str(uuid.uuid5(CALL_IDS, name)) for name in names], dtype=pl.String))


def as_json(*columns: pl.Expr | str) -> pl.Expr:
    return pl.struct(columns).struct.json_encode()


def write_ndjson(parts: Iterable[pl.DataFrame], path: Path) -> int:
    """The number of records written, one line each, gzipped; the same records always give the same bytes."""
    written = 0
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
        for part in parts:
            for call in part.iter_rows(named=True):
                bodies = {name: msgspec.Raw(call[name].encode()) for name in ("request", "response")}
                file.write(msgspec.json.encode(call | bodies) + b"\n")
            written += part.height
    return written


def write_parquet(parts: Iterable[pl.DataFrame], path: Path) -> int:
    """The number of records written."""
    written = 0
    tables = (part.to_arrow() for part in parts)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd", compression_level=19) as file:  # type: ignore[no-untyped-call]
        for table in chain([first], tables):
            file.write_table(table)
            written += table.num_rows
    return written


def _named(code: str, names: tuple[str, ...]) -> pl.Expr:
    return pl.col(code).replace_strict(dict(enumerate(names, start=1)), return_dtype=pl.String)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Turns the clicks of UCI data set 553 into call records for `carat ingest`."
    )
    parser.add_argument("clicks", type=Path, help="the data set's CSV file")
    parser.add_argument("calls", type=Path, help="what to write: a file named .ndjson.gz or .parquet")
    parser.add_argument(
        "--from", dest="since", type=date.fromisoformat, default=date.min, help="first day to write (YYYY-MM-DD)"
    )
    options = parser.parse_args(arguments)
    if not options.clicks.is_file():
        parser.error(f"{options.clicks}: no such file; the data set is at https://doi.org/10.24432/C5QK7X")
    if not options.calls.name.endswith((".ndjson.gz", ".parquet")):
        parser.error(f"{options.calls}: name it .ndjson.gz or .parquet")
    write = write_parquet if options.calls.suffix == ".parquet" else write_ndjson
    written = write(calls_in_parts(read_clicks(options.clicks), since=options.since), options.calls)
    print(f"{written:,} call records in {options.calls}")


if __name__ == "__main__":
    main()
