"""Runs the demo: generates the shop, replays its month day by day and the last day hour by hour, verifies, sums up."""

import gzip
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

from app.contracts import published_tables
from app.core import console
from app.core.errors import AuditError, SettingsError, ShopError
from app.core.service_url import ServiceUrl
from app.dashboards.card_results import query_runner
from app.dashboards.model import load_library
from app.dashboards.preview import write_page
from app.demo.calls import DemoPlan, calls_path, writing_month
from app.demo.database import ShopState, opening_state, write_state
from app.demo.shop_timeline import written_states
from app.demo.summary import say_summary
from app.jobs.build.backfill import build_stale
from app.jobs.ingest import ingest_paths
from app.jobs.raw_calls import LoadResult, ingest_summary
from app.jobs.snapshot import refusals, take_snapshot
from app.jobs.verify import verify_days
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse

_HOURS = 24


def run_demo(settings: Settings, plan: DemoPlan, folder: Path) -> None:
    """Generate, ingest, build and verify a month of a shop; a second run with the same plan finds nothing to do."""
    started = time.perf_counter()
    with open_warehouse(settings, purpose="carat demo") as warehouse:
        _require_own_warehouse(warehouse, plan, folder)
        totals, versions = LoadResult(), 0
        shop = folder / "shop.sqlite"
        settings = settings.model_copy(update={"shop_db": ServiceUrl.parse(f"sqlite://{shop.resolve()}", "sqlite")})
        # The calls of later days are generated while the first ones are ingested.
        with writing_month(plan, folder) as days, console.progress("month", plan.days) as bar:
            for path, evening, state in _evenings(plan, folder, days):
                if path == calls_path(plan, folder, plan.days - 1):
                    build_stale(warehouse, settings).require_done()
                    _live_hourly(warehouse, settings, path, totals, now=evening)
                elif path:
                    totals.add(ingest_paths(warehouse, settings, [str(path)], now=evening))
                versions += _snapshot(warehouse, settings, evening, state, shop)
                bar.advance(1)
        console.say(f"generated a shop: {shop} and {plan.days} days of calls")
        console.say(f"ingested {ingest_summary(totals)}")
        console.say(f"took {plan.days + 1} snapshots: {versions:,} versions of rows in history  ({_seconds(started)})")

        build_stale(warehouse, settings).require_done()
        rows = sum(warehouse.scalar(f"SELECT count() FROM {table.full_name}") for table in published_tables())
        console.say(f"built {plan.days} days, the last of them hour by hour: {rows:,} rows  ({_seconds(started)})")
        if differing := verify_days(warehouse, settings).differing:
            raise AuditError(f"{differing[0].day} of the demo differs from its raw calls: run `carat verify`")
        console.say(f"verified: every row matches the raw calls  ({_seconds(started)})")
        say_summary(warehouse)
        page = folder / "dashboards.html"
        write_page(query_runner(warehouse), load_library(currency=settings.currency), page)
        console.say(f"\nThe dashboards as one page for any browser: {page.resolve()}  ({_seconds(started)})")
        console.say(f'Next: carat query "SELECT * FROM dwh.sessions LIMIT 5", on {warehouse.url}')


def _evenings(
    plan: DemoPlan, folder: Path, days: list[Future[Path]]
) -> Iterator[tuple[Path | None, datetime, ShopState]]:
    """Each day's calls, its end, and the shop's database at that moment; first the start of the month."""
    yield None, datetime.fromtimestamp(plan.starts_ms / 1000, tz=UTC), opening_state(plan)
    states = written_states(plan, folder, hours=(24,), wait_for=lambda day_index: days[day_index].result())
    for day, (evening, state) in zip(days, states, strict=True):
        yield day.result(), evening, state


def _live_hourly(warehouse: Warehouse, settings: Settings, path: Path, totals: LoadResult, *, now: datetime) -> None:
    """Ingest a day's calls in 24 parts and build after each, as the hourly job does."""
    with gzip.open(path) as file:
        lines = file.readlines()
    folder = path.parent / "hours"
    folder.mkdir(exist_ok=True)
    for hour in range(_HOURS):
        part = folder / f"{path.name.partition('.')[0]}-{hour:02}.ndjson"
        part.write_bytes(b"".join(lines[len(lines) * hour // _HOURS : len(lines) * (hour + 1) // _HOURS]))
        totals.add(ingest_paths(warehouse, settings, [str(part)], now=now))
        build_stale(warehouse, settings).require_done()


def _snapshot(warehouse: Warehouse, settings: Settings, at: datetime, state: ShopState, path: Path) -> int:
    """The number of new versions in history; 0 if an earlier run of the demo took this snapshot."""
    write_state(state, path)
    if warehouse.scalar("SELECT count() FROM etl.snapshots WHERE at >= {at:DateTime64(3, 'UTC')}", {"at": at}):
        return 0
    # In a small shop every cart may become empty.
    taken = take_snapshot(warehouse, settings, at=at, accept_deletes=True)
    if failed := refusals(taken):
        raise ShopError("; ".join(failed))
    return sum(row["inserts"] + row["updates"] + row["deletes"] for row in taken)


def _require_own_warehouse(warehouse: Warehouse, plan: DemoPlan, folder: Path) -> None:
    """Demo calls must never mix with those of a real shop or of another demo."""
    mark = folder / "plan.txt"
    expected = f"{plan}\n"
    has_calls = bool(warehouse.scalar("SELECT count() FROM pd.api_calls"))
    if has_calls and (not mark.exists() or mark.read_text(encoding="utf-8") != expected):
        raise SettingsError(
            f"{warehouse.url} already holds calls of another shop: give the demo a warehouse of its own, "
            "such as CARAT_WAREHOUSE=chdb://./var/another, or remove what is there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(expected, encoding="utf-8")


def _seconds(started: float) -> str:
    return f"{time.perf_counter() - started:.0f} s"
