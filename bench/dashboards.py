"""What each card of the dashboards costs on a year of a large shop: 100 000 sessions a day.

python -m bench.dashboards [--sessions 100000] [--days 365] [--detail-days 28] [--catalog-days 56]

The engine generates the rows of dwh, the same ones every time. Sessions are generated for every day. Tables with many
rows per session are generated for the last days only: events, raw calls and products (35 rows per session, as in the
demo) for --detail-days, catalog pages for --catalog-days. The shop's history is two snapshots of the demo's.

Each card runs twice without a filter (28 days, compared with the 28 before where it compares), of which the faster run
counts, and once for all days. CPU seconds are those of all threads: on a busy machine they are more reliable.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.core.errors import CaratError
from app.dashboards.model import Card, Dashboard, DashCard, load_library
from app.dashboards.sql import render, values_of
from app.demo.database import opening_state, write_state
from app.demo.plan import DemoPlan
from app.jobs.snapshot import take_snapshot
from app.settings import load_settings
from app.warehouse import Warehouse, open_warehouse

_LAST_DAY = date(2026, 3, 31)
_TARGET_S = 1.0
_SESSIONS_A_VISITOR = 3
_PRODUCTS_A_SESSION = 35
_EVENTS_A_SESSION = 6
_ROWS_A_STATEMENT = 3_000_000

console = Console(width=160)


@dataclass(frozen=True)
class Made:
    """How much was made: sessions a day, days of them, and of how many last days there are details."""

    sessions: int
    days: int
    detail_days: int
    catalog_days: int

    @property
    def first_day(self) -> date:
        return _LAST_DAY - timedelta(days=self.days - 1)


@dataclass(frozen=True)
class Timed:
    """The fastest run; `error` if there was none."""

    wall_s: float
    cpu_s: float
    rows: int
    error: str = ""


def main() -> int:
    options = _options()
    made = Made(
        options.sessions, options.days, min(options.detail_days, options.days), min(options.catalog_days, options.days)
    )
    with _folder(options.folder) as folder:
        settings = load_settings(
            warehouse=f"chdb://{folder / 'warehouse'}",
            scratch=folder / "scratch",
            shop_db=f"sqlite://{folder / 'shop.sqlite'}",
        )
        with open_warehouse(settings, purpose="bench") as warehouse:
            began = time.perf_counter()
            if not (folder / "made").exists():
                _make_history(warehouse, settings, folder, made)
                _make_rows(warehouse, made)
                (folder / "made").touch()
            _tell_size(warehouse, time.perf_counter() - began, folder)
            return _bench(warehouse, made, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000, help="sessions a day")
    parser.add_argument("--days", type=int, default=365, help="days of sessions")
    parser.add_argument("--detail-days", type=int, default=28, help="last days of products, events and raw calls")
    parser.add_argument("--catalog-days", type=int, default=56, help="last days of catalog pages")
    parser.add_argument("--only", default="", help="cards whose name holds one of these, by |")
    parser.add_argument("--at-most", type=float, default=30, help="seconds after which a card is given up")
    parser.add_argument("--folder", type=Path, help="where the rows are kept for the next run; else they are removed")
    return parser.parse_args()


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    folder = kept.resolve() if kept else Path(tempfile.mkdtemp(prefix="carat-bench-dashboards-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if kept is None:
            shutil.rmtree(folder)


# ---- rows --------------------------------------------------------------------------------------------------------

# Of session number `number`: `h` is chance, `reached` the furthest step, `visitor` whose it is.
_SESSION = """
    toDate('{first_day}') + intDiv(number, {sessions}) AS day,
    sipHash64(number) AS h,
    sipHash64(number, 1) % {visitors} AS who,
    sipHash64(who, 2) AS visitor,
    sipHash64(who, 3) % 100 < 6 AS machine,
    toDateTime64(day, 3, 'UTC') + toIntervalMillisecond(h % 86400000) AS began,
    concat(lower(hex(visitor)), '-', toString(toUnixTimestamp64Milli(began))) AS session,
    h % 1000 AS lot,
    multiIf(lot < 95, 0, lot < 400, 1, lot < 720, 2, lot < 945, 3, lot < 972, 4, 5) AS reached,
    multiIf(who % 10 < 6, 'mobile', who % 10 < 9, 'desktop', 'tablet') AS device,
    ['Organic Search', 'Direct', 'Paid Search', 'Paid Social', 'Referral', 'Organic Social', 'Email', 'Affiliates',
     'Display', 'SMS', 'Mobile Push', 'AI Assistants'][1 + intDiv(h, 1000) % 12] AS way"""
_SESSIONS = """INSERT INTO dwh.sessions (session_date, session_id, visitor_id, user_id, user_type, is_bot, started_at,
    ended_at, duration_s, calls, errors, catalog_views, searches, product_views, products_viewed, favorites_added,
    cart_adds, checkouts, orders, units, revenue, device_type, os, browser, landing_page, source, medium, utm_campaign,
    channel, furthest_step, is_bounce)
SELECT day, session, concat('v', lower(hex(visitor))), if(who % 4 = 0, toString(intDiv(who, 5)), ''),
    if(who % 4 = 0, 'registered', 'guest'), machine, began, began + toIntervalMillisecond(length_ms), length_ms / 1000,
    2 + lot % 9, h % 61 = 0, reached >= 1 ? 1 + lot % 3 : 0, lot % 7 = 0 AND reached > 0,
    reached >= 2 ? 1 + lot % 4 : 0, reached >= 2 ? 1 + lot % 3 : 0, reached >= 3 AND lot % 2 = 0,
    reached >= 4 OR reached = 3 AND lot % 2 = 1, reached >= 4, reached = 5, reached = 5,
    reached = 5 ? toDecimal64(20 + h % 40000 / 100, 2) : 0, device,
    'Android', 'Chrome', concat('https://shop.example/en/page-', toString(h % 3000)),
    concat('source-', toString(intDiv(h, 777) % 60)), ['(none)', 'cpc', 'social', 'email'][1 + h % 4],
    h % 3 = 0 ? concat('campaign-', toString(h % 40)) : '', way,
    ['visit', 'catalog', 'product', 'cart', 'checkout', 'purchase'][reached + 1], reached = 0
FROM (SELECT *, h % 600000 AS length_ms FROM (SELECT number, {session} FROM numbers({offset}, {count})))"""
_CATALOG = """INSERT INTO dwh.catalog_sessions (session_date, session_id, visitor_id, call_id, ts, seq, listing_id,
    search_query, section, material, metal, price_max, filters_used, page, sort, results_total, results_shown,
    is_search, is_zero_result, products_clicked, products_carted, products_bought, clicked_positions, is_bot,
    device_type, channel)
SELECT day, session, concat('v', lower(hex(visitor))), reinterpretAsUUID(concat(reinterpret(h, 'FixedString(8)'),
    reinterpret(toUInt64(turn), 'FixedString(8)'))), began + turn, turn, turn = 3 ? 2 : turn,
    is_search ? concat('query ', toString(intDiv(h, 13) % 5000)) : '',
    if(h % 3 > 0, [['rings', 'earrings', 'necklaces', 'watches'][1 + h % 4]], []), if(h % 11 = 0, ['pearl'], []),
    if(h % 10 = 0, ['gold'], []), if(h % 17 = 0, toDecimal64(25 * (1 + h % 8), 2), NULL), 1, turn = 3 ? 2 : 1,
    ['', 'popular', 'newest', 'price_asc'][1 + h % 4], if(empty, 0, 300), if(empty, 0, 24), is_search, empty,
    clicked, clicked AND reached >= 3, clicked AND reached = 5, if(clicked, [toUInt16(1 + intDiv(h, 3) % 24)], []),
    machine, device, way
FROM (
    SELECT *, arrayJoin(range(1, toUInt64(2 + lot % 3))) AS turn, lot % 7 = 0 AS is_search,
        is_search AND h % 20 = 0 AS empty, reached >= 2 AND NOT empty AND turn = 1 AS clicked
    FROM (SELECT number, {session} FROM numbers({offset}, {count})) WHERE reached > 0
)"""
_PRODUCTS = """INSERT INTO dwh.product_sessions (session_date, session_id, visitor_id, product_id, first_seen_at,
    impressions, views, favorites_added, cart_adds, units_added, orders, units_bought, revenue, price, title, section,
    list_price, stock_qty, is_bot, device_type, channel)
SELECT day, session, concat('v', lower(hex(visitor))), toString({first_product} + product), began,
    1, seen, seen AND reached >= 3 AND lot % 2 = 0, carted, carted, bought, bought,
    bought ? toDecimal64(20 + h % 40000 / 100, 2) : 0, toDecimal64(10 + product, 2),
    concat('Product ', toString(product)), ['rings', 'earrings', 'necklaces', 'watches'][1 + product % 4],
    toDecimal64(10 + product, 2), product % 30 = 0 ? 0 : 12, machine, device, way
FROM (
    SELECT *, toUInt32(pow((sipHash64(h, place) % 10000) / 10000, 1.7) * 2000) AS product,
        place < 3 AND reached >= 2 AS seen,
        place = 0 AND (reached >= 4 OR reached = 3 AND lot % 2 = 1) AS carted, place = 0 AND reached = 5 AS bought
    FROM (SELECT number, {session} FROM numbers({offset}, {count})) ARRAY JOIN range({per_session}) AS place
)"""
_EVENTS = """INSERT INTO dwh.events (event_date, ts, call_id, session_id, visitor_id, event, status)
SELECT day, began + place * 20, reinterpretAsUUID(concat(reinterpret(h, 'FixedString(8)'),
        reinterpret(toUInt64(place), 'FixedString(8)'))), session, concat('v', lower(hex(visitor))),
    place > reached ? 'other' : ['other', 'catalog', 'product_view', 'cart_add', 'checkout', 'purchase'][place + 1], 200
FROM (SELECT number, {session} FROM numbers({offset}, {count})) ARRAY JOIN range({per_session}) AS place"""
_CALLS = """INSERT INTO pd.api_calls (call_id, ts, received_at, method, endpoint, status)
SELECT reinterpretAsUUID(concat(reinterpret(h, 'FixedString(8)'), reinterpret(toUInt64(place), 'FixedString(8)'))),
    began + place * 20 AS at, h % 300 = 0 ? at + 2 * 86400 : at + 60, 'GET', '/api/v1/catalog', 200
FROM (SELECT number, {session} FROM numbers({offset}, {count})) ARRAY JOIN range({per_session}) AS place"""


def _make_rows(warehouse: Warehouse, made: Made) -> None:
    plans = (
        ("sessions", _SESSIONS, made.days, 1),
        ("catalog pages", _CATALOG, made.catalog_days, 2),
        ("products", _PRODUCTS, made.detail_days, _PRODUCTS_A_SESSION),
        ("events", _EVENTS, made.detail_days, _EVENTS_A_SESSION),
        ("raw calls", _CALLS, made.detail_days, _EVENTS_A_SESSION),
    )
    first_product = warehouse.scalar("SELECT min(id) FROM history.items_current")
    for what, sql, days, per_session in plans:
        began, cpu = time.perf_counter(), time.process_time()
        offset, end = (made.days - days) * made.sessions, made.days * made.sessions
        step = max(_ROWS_A_STATEMENT // per_session // made.sessions, 1) * made.sessions  # whole days
        for at in range(offset, end, step):
            session = _SESSION.format(
                first_day=made.first_day,
                sessions=made.sessions,
                visitors=max(made.days * made.sessions // _SESSIONS_A_VISITOR, 1),
            )
            warehouse.command(
                sql.format(
                    session=session,
                    offset=at,
                    count=min(step, end - at),
                    per_session=per_session,
                    first_product=first_product,
                )
            )
        console.print(
            f"made {days} days of {what} in {time.perf_counter() - began:.0f} s ({time.process_time() - cpu:.0f} CPU s)"
        )
    warehouse.command(
        "INSERT INTO etl.runs (run_id, job, day, started_at, ended_at, state, rows_in, rows_out, seconds) "
        f"SELECT toString(number), 'etl', toDate('{_LAST_DAY}') - intDiv(number, 24), now64(3) - number * 3600 AS at, "
        f"at, 'done', 1, 1, 1 FROM numbers({24 * made.days})"
    )
    warehouse.command(
        "INSERT INTO etl.ledger (day, job, built_at, calls, rows, timezone) SELECT "
        f"toDate('{_LAST_DAY}') - intDiv(number, 96), "
        "['events', 'sessions', 'catalog_sessions', 'product_sessions'][1 + number % 4], "
        f"now64(3) - intDiv(number, 4) * 3600, 1, 1, 'UTC' FROM numbers({96 * made.days})"
    )


def _make_history(warehouse: Warehouse, settings: object, folder: Path, made: Made) -> None:
    state = opening_state(DemoPlan())
    write_state(state, folder / "shop.sqlite")
    for days in (made.days, 3):
        at = datetime.combine(_LAST_DAY - timedelta(days=days), datetime.min.time(), UTC)
        take_snapshot(warehouse, settings, at=at, accept_deletes=True)


def _tell_size(warehouse: Warehouse, seconds: float, folder: Path) -> None:
    sizes = warehouse.query(
        "SELECT database || '.' || table AS name, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts "
        "WHERE active AND database IN ('dwh', 'pd', 'history') GROUP BY name ORDER BY rows DESC"
    )
    for name, rows, size in sizes.iter_rows():
        console.print(f"{name:<26}{rows:>14,} rows {size / 1e9:8.2f} GB")
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.print(f"{used / 1e9:.1f} GB in all, ready after {seconds:.0f} s")


# ---- cards -------------------------------------------------------------------------------------------------------


def _bench(warehouse: Warehouse, made: Made, options: argparse.Namespace) -> int:
    library = load_library()
    places: dict[str, tuple[Dashboard, DashCard, Card]] = {
        dashcard.card.entity_id: (dashboard, dashcard, dashcard.card)
        for dashboard in library.dashboards
        for dashcard in dashboard.dashcards
        if dashcard.card and any(part in dashcard.card.name.lower() for part in options.only.lower().split("|"))
    }
    results = []
    for dashboard, dashcard, card in places.values():
        timed = [
            _timed(warehouse, render(card, values_of(dashboard, dashcard, chosen)), runs, options.at_most)
            for chosen, runs in (({}, 2), ({"date": f"{made.first_day}~{_LAST_DAY}"}, 1))
        ]
        results.append((timed, dashboard.name, card.name))
        console.print(
            f"{timed[0].wall_s:6.2f} s {timed[1].wall_s:6.2f} s  {card.name} {timed[0].error}", highlight=False
        )
    results.sort(key=lambda result: -result[0][0].wall_s)
    table = Table(
        title=f"{len(results)} cards, {made.sessions:,} sessions a day, {made.days} days", title_justify="left"
    )
    for column in ("28 days: s", "CPU s", "all days: s", "CPU s", "rows", "dashboard", "card"):
        table.add_column(column, justify="left" if column in {"dashboard", "card"} else "right")
    for (default, everything), dashboard_name, name in results:
        table.add_row(
            *_cells(default),
            *_cells(everything),
            f"{default.rows:,}",
            dashboard_name,
            name + (f" [red]{default.error}" if default.error else ""),
        )
    console.print(table)
    slow = [name for (default, _), _, name in results if default.error or default.wall_s > _TARGET_S]
    console.print(f"{len(results) - len(slow)} of {len(results)} cards under {_TARGET_S:g} s for their default days")
    return 1 if slow else 0


def _cells(timed: Timed) -> tuple[str, str]:
    return ("failed", "") if timed.error else (f"{timed.wall_s:.2f}", f"{timed.cpu_s:.2f}")


def _timed(warehouse: Warehouse, sql: str, runs: int, at_most_s: float) -> Timed:
    timed = []
    for _ in range(runs):
        began, cpu = time.perf_counter(), time.process_time()
        try:
            rows = warehouse.query_arrow(f"{sql} SETTINGS max_execution_time = {at_most_s}").num_rows
        except CaratError as error:
            return Timed(time.perf_counter() - began, time.process_time() - cpu, 0, str(error)[:200])
        timed.append(Timed(time.perf_counter() - began, time.process_time() - cpu, rows))
    return min(timed, key=lambda run: run.wall_s)


if __name__ == "__main__":
    raise SystemExit(main())
