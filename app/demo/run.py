"""Runs the demo: makes the shop, lives its month day by day and its last day hour by hour, proves it, sums it up."""

import gzip
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from app.contracts import dwh_tables
from app.core import console
from app.core.errors import AuditError, SettingsError, ShopError
from app.dashboards import load_library
from app.dashboards.answers import reader_of
from app.dashboards.preview import write_page
from app.demo.calls import DemoPlan, write_month
from app.demo.database import ShopState, opening_state, write_state
from app.demo.life import written_states
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
    """A month of a shop, from nothing to its numbers; a second run with the same plan finds nothing to do."""
    started = time.perf_counter()
    with open_warehouse(settings, purpose="carat demo") as warehouse:
        _require_own_warehouse(warehouse, plan, folder)
        paths = _make_shop(plan, folder)
        console.say(f"made a shop: {folder / 'shop.sqlite'} and {len(paths)} days of calls  ({_seconds(started)})")

        totals, versions = LoadResult(), 0
        month = _evenings(plan, folder, paths)
        settings = settings.model_copy(update={"shop_db": SecretStr(f"sqlite://{(folder / 'shop.sqlite').resolve()}")})
        with console.progress("month", plan.days) as bar:
            for path, evening, state in month:
                if path == paths[-1]:
                    build_stale(warehouse, settings).require_done()
                    _live_hourly(warehouse, settings, path, totals, now=evening)
                elif path:
                    totals.add(ingest_paths(warehouse, settings, [str(path)], now=evening))
                versions += _snapshot(warehouse, settings, evening, state, folder / "shop.sqlite")
                bar.advance(1)
        console.say(f"ingested {ingest_summary(totals)}")
        console.say(f"took {len(paths) + 1} snapshots: {versions:,} versions of rows in history  ({_seconds(started)})")

        build_stale(warehouse, settings).require_done()
        rows = sum(warehouse.scalar(f"SELECT count() FROM {table.full_name}") for table in dwh_tables())
        console.say(f"built {len(paths)} days, the last of them hour by hour: {rows:,} rows  ({_seconds(started)})")
        if differing := verify_days(warehouse, settings).differing:
            raise AuditError(f"{differing[0].day} of the demo is not what its calls say: run `carat verify`")
        console.say(f"verified: every row is what the raw calls say  ({_seconds(started)})")
        say_summary(warehouse)
        page = folder / "dashboards.html"
        write_page(reader_of(warehouse), load_library(), page)
        console.say(f"\nThe dashboards, as one page for any browser: {page.resolve()}  ({_seconds(started)})")
        console.say(f'Look further: carat query "SELECT * FROM dwh.sessions LIMIT 5", on {warehouse.url}')


def _make_shop(plan: DemoPlan, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with console.progress("shop", plan.days) as bar:
        return write_month(plan, folder, bar.reach)


def _evenings(plan: DemoPlan, folder: Path, paths: list[Path]) -> Iterator[tuple[Path | None, datetime, ShopState]]:
    """Each day's calls, its evening, and the shop's database as it is then; first the eve of the month."""
    yield None, datetime.fromtimestamp(plan.starts_ms / 1000, tz=UTC), opening_state(plan)
    for path, (evening, state) in zip(paths, written_states(plan, folder, hours=(24,)), strict=True):
        yield path, evening, state


def _live_hourly(warehouse: Warehouse, settings: Settings, path: Path, totals: LoadResult, *, now: datetime) -> None:
    """A day's calls as they come in, in 24 parts, each built into what is published already."""
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
    """The new versions in history; none where this moment was recorded by an earlier run of the demo."""
    write_state(state, path)
    if warehouse.scalar("SELECT count() FROM etl.snapshots WHERE at >= {at:DateTime64(3, 'UTC')}", {"at": at}):
        return 0
    taken = take_snapshot(warehouse, settings, at=at, accept_deletes=True)  # a small shop's carts may all be emptied
    if failed := refusals(taken):
        raise ShopError("; ".join(failed))
    return sum(row["inserts"] + row["updates"] + row["deletes"] for row in taken)


def _require_own_warehouse(warehouse: Warehouse, plan: DemoPlan, folder: Path) -> None:
    """Demo calls must never mix with a real shop's, nor with those of another demo."""
    mark = folder / "plan.txt"
    wanted = f"{plan}\n"
    has_calls = bool(warehouse.scalar("SELECT count() FROM pd.api_calls"))
    if has_calls and (not mark.exists() or mark.read_text(encoding="utf-8") != wanted):
        raise SettingsError(
            f"{warehouse.url} already holds calls of another shop: give the demo a warehouse of its own, "
            "such as CARAT_WAREHOUSE=chdb://./var/another, or remove what is there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(wanted, encoding="utf-8")


def _seconds(started: float) -> str:
    return f"{time.perf_counter() - started:.0f} s"
