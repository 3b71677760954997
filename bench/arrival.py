"""Measures how calls arrive: a file into `pd.api_calls`, and the search for known ids by how much is stored.

python -m bench.arrival [--calls 200000] [--stored 200000,5000000]

CPU seconds of this process, with the engine in it. The file is generated once, and no response in it is like another.
"""

import argparse
import gzip
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from app.contracts import API_CALLS
from app.jobs.ingest import ingest_source
from app.jobs.raw_calls import LoadResult, known_calls
from app.settings import load_settings
from app.warehouse import Warehouse, call_id_filters, open_warehouse
from bench.data import base_frame

_NOW = datetime(2026, 6, 1, tzinfo=UTC)
_BASE_CALLS = 100_000
_DAYS = 30
_ASKED = 20_000
_ROUNDS = 5
_FIELDS = (
    "method", "endpoint", "session_token", "user_id", "status", "duration_ms", "ip", "user_agent", "referrer",
    "page_url",
)  # fmt: skip

console = Console(width=80)


def main() -> int:
    options = _options()
    folder = options.folder.resolve() / "arrival"
    folder.mkdir(parents=True, exist_ok=True)
    if options.calls:
        _bench_files(folder, options.calls)
    _bench_known_ids(folder, options.stored)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000, help="calls of the file; 0 leaves it out")
    parser.add_argument(
        "--stored", type=lambda text: [int(n) for n in text.split(",") if n], default=[200_000, 5_000_000]
    )
    parser.add_argument("--folder", type=Path, default=Path("var/bench"))
    return parser.parse_args()


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


# ---- files -------------------------------------------------------------------------------------------------------


def _bench_files(folder: Path, calls: int) -> None:
    plain = folder / f"{calls}.ndjson"
    packed = folder / f"{calls}.ndjson.gz"
    if not packed.exists():
        with plain.open("wb") as file:
            file.writelines(_lines(calls))
        packed.write_bytes(gzip.compress(plain.read_bytes(), 6))
    table = Table(title=f"{calls:,} calls of {plain.stat().st_size // calls:,} bytes from a file", title_justify="left")
    for column in ("file", "CPU s", "µs a call"):
        table.add_column(column, justify="right")
    for path in (plain, packed):
        cpu_s = _ingest_cpu_s(folder, path, calls)
        table.add_row(path.suffix, f"{cpu_s:.2f}", f"{cpu_s / calls * 1e6:.1f}")
    console.print(table)


def _ingest_cpu_s(folder: Path, path: Path, calls: int) -> float:
    with _new_warehouse(folder) as warehouse:
        totals = LoadResult()
        cpu_s = _cpu_s(lambda: ingest_source(warehouse, str(path), now=_NOW, totals=totals))
    assert totals.stored == calls
    return cpu_s


def _lines(calls: int) -> Iterator[bytes]:
    base = base_frame(min(calls, _BASE_CALLS)).with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    for number in range(calls):
        copy, row = divmod(number, _BASE_CALLS)
        call = base.row(row, named=True)
        call_id = uuid.UUID(bytes=hashlib.md5(f"{copy}/{row}".encode(), usedforsecurity=False).digest())
        record = {"ts": call["ts"], "call_id": str(call_id), "visitor_id": f"{call['visitor_id']}-{copy}"}
        record |= {name: call[name] for name in _FIELDS}
        text = json.dumps(record, separators=(",", ":"))
        response = f'{{"trace":"{number:09}",{call["response"][1:]}'  # no two are alike
        yield f'{text[:-1]},"request":{call["request"]},"response":{response}}}\n'.encode()


# ---- known ids ---------------------------------------------------------------------------------------------------


def _bench_known_ids(folder: Path, sizes: list[int]) -> None:
    table = Table(title=f"search for {_ASKED:,} new ids, CPU µs an id", title_justify="left")
    for column in ("stored calls", "all ids read", "filters made", "filters loaded", "filters held"):
        table.add_column(column, justify="right")
    for stored in sizes:
        with _new_warehouse(folder) as warehouse:
            _fill(warehouse, stored)
            figures = [f"{cpu_s / _ASKED * 1e6:.2f}" for cpu_s in _search_cpu_s(warehouse)]
        table.add_row(f"{stored:,}", *figures)
    console.print(table)


def _search_cpu_s(warehouse: Warehouse) -> Iterator[float]:
    """The cost of a search without filters, and with filters that are new, stored and in memory."""
    ids = pl.Series([uuid.uuid4().bytes for _ in range(_ASKED)], dtype=pl.Binary)

    def read_all() -> None:
        with warehouse.held_ids(ids, table="etl.incoming_ids") as given:
            warehouse.query(f"SELECT call_id, ts, content_hash FROM {API_CALLS.full_name} WHERE call_id IN ({given})")

    def search(*, is_new_process: bool) -> float:
        if is_new_process:
            call_id_filters.forget()
        return _cpu_s(lambda: known_calls(warehouse, ids))

    yield min(_cpu_s(read_all) for _ in range(_ROUNDS))
    yield search(is_new_process=True)
    yield min(search(is_new_process=True) for _ in range(_ROUNDS))
    yield min(search(is_new_process=False) for _ in range(_ROUNDS))


def _fill(warehouse: Warehouse, calls: int) -> None:
    """Narrow calls over a month; a part for each day."""
    day, second = f"INTERVAL number % {_DAYS} DAY", f"INTERVAL intDiv(number, {_DAYS}) % 86400 SECOND"
    at = f"toDateTime64('2026-03-01', 3, 'UTC') + {day} + {second}"
    warehouse.command(
        "INSERT INTO pd.api_calls (call_id, ts, received_at, visitor_id, method, endpoint, status) "
        f"SELECT generateUUIDv4(number), {at} AS at, at, toString(intDiv(number, 8)), 'GET', '/api/v1/cart', 200 "
        f"FROM numbers({calls}) SETTINGS max_partitions_per_insert_block = 0"
    )
    warehouse.command("OPTIMIZE TABLE pd.api_calls FINAL")


def _new_warehouse(folder: Path) -> AbstractContextManager[Warehouse]:
    path = folder / "warehouse"
    shutil.rmtree(path, ignore_errors=True)
    return open_warehouse(load_settings(warehouse=f"chdb://{path}"), purpose="bench")


if __name__ == "__main__":
    raise SystemExit(main())
