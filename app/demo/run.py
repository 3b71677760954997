"""Runs the demo: makes the shop, ingests and snapshots its month as it passes, builds it, says how the shop does."""

import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from app import console
from app.backfill import build_stale
from app.demo.calls import DemoPlan, write_month
from app.demo.database import ShopState, opening_state, write_state
from app.demo.life import written_states
from app.demo.summary import say_summary
from app.errors import SettingsError, ShopError
from app.jobs.build import JOBS
from app.jobs.ingest import Ingested
from app.runs import ingest_paths, ingest_summary, prepare, take_snapshot
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

        totals, versions = _live_the_month(warehouse, settings, plan, folder, paths)
        console.say(f"ingested {ingest_summary(totals)}")
        console.say(f"took {len(paths) + 1} snapshots: {versions:,} versions of rows in history  ({_seconds(started)})")

        built = build_stale(warehouse, settings, jobs=JOBS).require_done().built
        console.say(
            f"built {len(built)} days, {sum(sum(day.rows.values()) for day in built):,} rows  ({_seconds(started)})"
        )
        say_summary(warehouse)
        console.say(f'\nLook further: carat query "SELECT * FROM dwh.sessions LIMIT 5", on {public_url(warehouse.url)}')


def _make_shop(plan: DemoPlan, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with console.progress("shop", plan.days) as bar:
        return write_month(plan, folder, bar.reach)


def _live_the_month(
    warehouse: Warehouse, settings: Settings, plan: DemoPlan, folder: Path, paths: list[Path]
) -> tuple[Ingested, int]:
    """Every evening the day's calls come in, and the shop's database is read as it is then."""
    shop_db = (folder / "shop.sqlite").resolve()
    settings = settings.model_copy(update={"shop_db": SecretStr(f"sqlite://{shop_db}")})
    totals = Ingested()
    evenings = written_states(plan, folder, hours=(24,))
    opening = datetime.fromtimestamp(plan.starts_ms / 1000, tz=UTC)
    with console.progress("month", plan.days) as bar:
        versions = _snapshot(warehouse, settings, opening, opening_state(plan), shop_db)
        for path, (evening, state) in zip(paths, evenings, strict=True):
            totals.add(ingest_paths(warehouse, settings, [str(path)], now=evening))
            versions += _snapshot(warehouse, settings, evening, state, shop_db)
            bar.advance(1)
    return totals, versions


def _snapshot(warehouse: Warehouse, settings: Settings, at: datetime, state: ShopState, path: Path) -> int:
    """The new versions in history; none where this moment was recorded by an earlier run of the demo."""
    write_state(state, path)
    if warehouse.scalar("SELECT count() FROM etl.snapshots WHERE at >= {at:DateTime64(3, 'UTC')}", {"at": at}):
        return 0
    taken = take_snapshot(warehouse, settings, at=at, accept_deletes=True)  # a small shop's carts may all be emptied
    if failed := [row["error"] for row in taken if row["error"]]:
        raise ShopError("; ".join(failed))
    return sum(row["inserts"] + row["updates"] + row["deletes"] for row in taken)


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
