"""Checks an installation: what each check found and how to fix it."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from app.core.disk import existing_parent, free_bytes
from app.core.errors import CaratError, NoTableError
from app.core.service_url import ServiceUrl
from app.intake.spool import foreign_files, sealed_segments, spool_backlog
from app.ops.cluster_checks import check_cluster
from app.ops.finding import Finding
from app.ops.server_checks import MAX_CLOCK_SKEW_S, check_user, check_version, clock_skew_s
from app.ops.status import map_misfits, products_met
from app.rules.countries import load_countries
from app.rules.endpoint_map import load_endpoint_map
from app.rules.session_rules import load_session_rules
from app.rules.snapshot_plan import load_snapshot_plan
from app.settings import Settings, exposed_secrets, load_settings, unknown_variables
from app.shop import open_shop
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.cluster import Cluster

_NEEDED_FREE_BYTES = 5 * 1024**3
_OLDEST_COUNTRIES_DAYS = 180  # networks change hands
_LEAST_SHARE_FOUND = 0.9  # of the products that the calls name


def examine() -> list[Finding]:
    """Runs every check, except those that need one that failed."""
    findings = list(_unknown_variables())
    try:
        settings = load_settings()
    except CaratError as error:
        return [*findings, Finding("settings", is_ok=False, detail=str(error))]
    findings.append(
        Finding(
            "settings",
            is_ok=True,
            detail=f"time zone {settings.timezone}, sessions end after {settings.session_timeout}",
        )
    )
    findings += (Finding("secrets", is_ok=True, detail=line, is_warning=True) for line in exposed_secrets())
    findings += _encryption(settings)
    findings.append(
        _tried(
            "endpoint map", lambda: f"{len(load_endpoint_map(settings.tracking).calls)} calls in {settings.tracking}"
        )
    )
    findings.append(
        _tried(
            "snapshot plan",
            lambda: f"{len(load_snapshot_plan(settings.snapshots).tables)} tables in {settings.snapshots}",
        )
    )
    findings.append(_tried("session rules", lambda: _session_rules(settings)))
    if settings.shop_db is not None:
        findings.append(_tried("shop database", lambda: _shop(settings)))
    findings.append(_addresses(settings))
    if settings.geo_database is not None:
        findings.append(_countries(settings))
    findings.append(_disk(settings))
    findings += _folder(settings)
    findings.append(_spool(settings))
    try:
        with open_warehouse(settings, purpose="carat doctor", writes=False) as warehouse:
            findings.append(Finding("warehouse", is_ok=True, detail=f"{warehouse.url}, ClickHouse {warehouse.version}"))
            findings += _of_engine(warehouse)
            if settings.has_server:
                findings += check_user(warehouse, has_shop_link=settings.has_mysql)
            if isinstance(warehouse, Cluster):
                findings += check_cluster(warehouse)
            findings += _map_fit(warehouse)
            if settings.shop_db is not None:
                findings += _products(warehouse, settings)
    except CaratError as error:
        findings.append(Finding("warehouse", is_ok=False, detail=str(error)))
    return findings


def _unknown_variables() -> Iterator[Finding]:
    try:
        problems = unknown_variables()
    except CaratError:  # `.env` cannot be read; the check of the settings says so
        return
    for problem in problems:
        yield Finding("variables", is_ok=False, detail=problem)


def _session_rules(settings: Settings) -> str:
    rules = load_session_rules(settings)
    channels, devices = len(rules.channels.channels), len(rules.devices.devices)
    return f"{channels} channels in {settings.channels}, {devices} rules for devices in {settings.devices}"


def _tried(check: str, action: Callable[[], str]) -> Finding:
    try:
        return Finding(check, is_ok=True, detail=action())
    except CaratError as error:
        return Finding(check, is_ok=False, detail=str(error))


def _shop(settings: Settings) -> str:
    """Every table of the plan, with the number of its columns that are kept."""
    plan = load_snapshot_plan(settings.snapshots)
    with open_shop(settings) as shop:
        columns: dict[str, int] = {}
        for table in plan.tables:
            try:
                columns[table.name] = len(shop.describe(table))
            except NoTableError:
                if not table.optional:
                    raise
        apart = shop.why_apart(len(columns))
    kept = f"{shop.name}: " + ", ".join(f"{name} ({count} columns kept)" for name, count in columns.items())
    return kept + (f"; each table is read by itself, not all at one instant: {apart}" if apart else "")


def _encryption(settings: Settings) -> Iterator[Finding]:
    """How the connections to servers are protected; a warning where somebody on the way could read or change them."""
    for name, url in (("CARAT_WAREHOUSE", settings.warehouse), ("CARAT_SHOP_DB", settings.shop_db)):
        if url is None or not url.host:
            continue
        is_exposed = not url.is_verified if url.is_secure else not url.is_local
        fix = f": {_how_to_encrypt(url)}" if is_exposed else ""
        yield Finding("encryption", is_ok=True, detail=f"{name} is {url.security}{fix}", is_warning=is_exposed)


def _how_to_encrypt(url: ServiceUrl) -> str:
    if url.scheme == "mysql":
        return "add ?ssl-mode=verify_identity&ssl-ca=FILE"
    return "remove verify=false, and add ca=FILE if the authority is your own" if url.is_secure else "add ?secure=true"


def _addresses(settings: Settings) -> Finding:
    if settings.ip == "hash" and settings.geo_database is not None:
        problem = "hashed addresses have no country: set CARAT_IP=truncate, or unset CARAT_GEO_DATABASE"
        return Finding("addresses", is_ok=False, detail=problem)
    stored = {"keep": "unchanged (CARAT_IP: keep, truncate or hash)", "truncate": "truncated", "hash": "hashed"}
    return Finding("addresses", is_ok=True, detail=f"shopper IP addresses are stored {stored[settings.ip]}")


def _countries(settings: Settings) -> Finding:
    try:
        countries = load_countries(settings.geo_database)
    except CaratError as error:
        return Finding("countries", is_ok=False, detail=str(error))
    assert countries.built_at is not None
    days = (datetime.now(tz=UTC) - countries.built_at).days
    is_ok = days <= _OLDEST_COUNTRIES_DAYS
    fix = "" if is_ok else ": get a newer one; Carat then rebuilds every day"
    detail = f"{countries.kind} in {settings.geo_database}, {days} days old{fix}"
    return Finding("countries", is_ok=is_ok, detail=detail)


def _disk(settings: Settings) -> Finding:
    folder = existing_parent(Path.cwd() if settings.has_server else settings.warehouse.local_path)
    free = free_bytes(folder)
    is_ok = free >= _NEEDED_FREE_BYTES
    fix = (
        "" if is_ok else "; a build writes the new day before it drops the old one: free some, or move CARAT_WAREHOUSE"
    )
    return Finding("disk", is_ok=is_ok, detail=f"{free / 1024**3:.1f} GiB free at {folder}{fix}")


def _folder(settings: Settings) -> Iterator[Finding]:
    """Whether other users of this machine can look into an embedded warehouse."""
    folder = settings.warehouse.local_path
    if settings.has_server or not folder.is_dir():
        return
    if folder.stat().st_mode & 0o077:
        detail = f"other users of this machine can read {folder}: chmod 700 {folder}"
        yield Finding("warehouse folder", is_ok=True, is_warning=True, detail=detail)


def _spool(settings: Settings) -> Finding:
    """Whether a collector could write to the spool and has space; creates nothing."""
    try:
        sealed_segments(settings.spool)  # also whether others may write to it
        depth = spool_backlog(settings.spool)
        foreign = foreign_files(settings.spool)
    except CaratError as error:
        return Finding("spool", is_ok=False, detail=str(error))
    folder = existing_parent(settings.spool.resolve())
    free = free_bytes(folder)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        problem = f"this user may not write to {folder}: run as the collector's user, or fix CARAT_SPOOL"
    elif free < settings.spool_min_free_bytes:
        least = f"{settings.spool_min_free_bytes / 1024**3:.1f} GiB (CARAT_SPOOL_MIN_FREE_BYTES)"
        problem = f"{free / 1024**3:.1f} GiB free at {folder}: below {least} the collector answers 503; free some space"
    elif settings.spool_max_bytes and depth.bytes > settings.spool_max_bytes:
        problem = f"{depth.bytes} bytes wait, CARAT_SPOOL_MAX_BYTES allows {settings.spool_max_bytes}: run `carat load`"
    elif foreign:
        problem = f"{len(foreign)} links, pipes or devices in the place of segments, such as {foreign[0]}: remove them"
    else:
        problem = ""
    waiting = f"{depth.segments} segments ({depth.bytes / 1024**2:.1f} MiB) wait for delivery in {settings.spool}"
    return Finding("spool", is_ok=not problem, detail=problem or waiting)


def _of_engine(warehouse: Warehouse) -> Iterator[Finding]:
    yield check_version(warehouse.version)
    skew_s = clock_skew_s(warehouse)
    is_ok = skew_s <= MAX_CLOCK_SKEW_S
    yield Finding(
        "clock",
        is_ok=is_ok,
        detail=f"{skew_s:.1f} s between this machine and the warehouse{'' if is_ok else ': synchronize both with NTP'}",
    )
    databases = set(warehouse.query("SELECT name FROM system.databases")["name"])
    missing = [name for name in ("pd", "dwh", "history", "etl") if name not in databases]
    yield Finding(
        "databases",
        is_ok=not missing,
        detail=f"run `carat migrate`: no {', '.join(missing)}" if missing else "pd, dwh, history, etl",
    )


def _map_fit(warehouse: Warehouse) -> Iterator[Finding]:
    """Whether the endpoint map fits the calls of the last days built."""
    check = "endpoint map fits"
    if not warehouse.scalar("EXISTS dwh.map_fit"):  # before the first `carat migrate` of this version
        return
    misfits = map_misfits(warehouse)
    for row in misfits.iter_rows(named=True):
        place = f"{row['entry']} {row['field']}".rstrip()
        detail = f"{row['last_day']}, {place}: {row['problem']}. Fix: {row['fix']}"
        yield Finding(check, is_ok=True, detail=detail, is_warning=True)
    if misfits.is_empty():
        yield Finding(check, is_ok=True, detail="nothing looks wrong in the calls of the last days built")


def _products(warehouse: Warehouse, settings: Settings) -> Iterator[Finding]:
    """Whether the products of the calls are those of the shop's database: ids that never meet have no title."""
    tables = [f"history.{table.name}" for table in load_snapshot_plan(settings.snapshots).of_products]
    if not tables or not warehouse.scalar("EXISTS dwh.product_sessions"):
        return
    for row in products_met(warehouse).iter_rows(named=True):
        found = f"{row['products']:,} products viewed or bought, {row['found']:,} found in {', '.join(tables)}"
        is_warning = row["found"] < _LEAST_SHARE_FOUND * row["products"]
        fix = ". Are they written otherwise in the shop's database? See docs/history.md" if is_warning else ""
        examples = f"; not {', '.join(row['examples'])}" if row["examples"] else ""
        yield Finding("products", is_ok=True, detail=f"{found}{examples}{fix}", is_warning=is_warning)
