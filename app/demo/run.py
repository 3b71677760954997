"""Runs the demo: makes the shop, ingests its month as it passes, builds it, and says how the shop does."""

import time
from datetime import UTC, datetime
from pathlib import Path

from app import console
from app.demo.calls import DemoPlan, write_month
from app.demo.database import write_database
from app.demo.summary import say_summary
from app.errors import SettingsError
from app.jobs.build import JOBS
from app.jobs.ingest import Ingested
from app.runs import build_stale, ingest_paths, ingest_summary, prepare
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.client import public_url


def run_demo(settings: Settings, plan: DemoPlan, folder: Path) -> None:
    """A month of a shop, from nothing to its numbers; a second run with the same plan finds nothing to do."""
    started = time.perf_counter()
    with open_warehouse(settings, purpose="carat demo") as warehouse:
        prepare(warehouse, settings)
        _require_own_warehouse(warehouse, plan, folder)
        paths = _make_shop(plan, folder)
        console.say(f"made a shop: {folder / 'shop.sqlite'} and {len(paths)} days of calls  ({_seconds(started)})")

        totals = Ingested()
        for number, path in enumerate(paths):
            arrived = datetime.fromtimestamp(plan.day_starts_ms(number + 1) / 1000, tz=UTC)
            totals.add(ingest_paths(warehouse, settings, [str(path)], now=arrived))
        console.say(f"ingested {ingest_summary(totals)}  ({_seconds(started)})")

        _, built = build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
        console.say(
            f"built {len(built)} days, {sum(sum(day.rows.values()) for day in built):,} rows  ({_seconds(started)})"
        )
        say_summary(warehouse, folder / "shop.sqlite")
        console.say(f'\nLook further: carat query "SELECT * FROM dwh.sessions LIMIT 5", on {public_url(warehouse.url)}')


def _make_shop(plan: DemoPlan, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with console.progress("shop", plan.days) as bar:
        paths = write_month(plan, folder, bar.reach)
    write_database(plan, folder / "shop.sqlite")
    return paths


def _require_own_warehouse(warehouse: Warehouse, plan: DemoPlan, folder: Path) -> None:
    """Demo calls must never mix with a real shop's, nor with those of another demo."""
    mark = folder / "plan.txt"
    wanted = f"{plan}\n"
    has_calls = bool(warehouse.scalar("SELECT count() FROM pd.api_calls"))
    if has_calls and (not mark.exists() or mark.read_text(encoding="utf-8") != wanted):
        raise SettingsError(
            f"{public_url(warehouse.url)} already holds calls of another shop: give the demo a warehouse of its own, "
            "such as CARAT_WAREHOUSE=chdb://./var/another, or remove what is there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(wanted, encoding="utf-8")


def _seconds(started: float) -> str:
    return f"{time.perf_counter() - started:.0f} s"
