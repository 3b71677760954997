"""What `carat doctor` checks of a ClickHouse server: its version, and what its administrator gives Carat's user."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from app.contracts.grants import Grant, reader_grants, writer_grants
from app.core.errors import WarehouseError
from app.core.sql import quote
from app.ops.finding import Finding
from app.warehouse import Warehouse
from app.warehouse.advice import quote_user
from app.warehouse.engine_settings import DURABILITY, how_to_unfix

MAX_CLOCK_SKEW_S = 5

# The first release of each line without ClickHouse #111031. Lines before 26.3 get no such fix.
_TOKENS_FIXED = {(26, 3): (17, 65), (26, 4): (5, 151), (26, 5): (6, 63), (26, 6): (2, 98)}
_PARTS_FIXED = (26, 6)  # ClickHouse #107605
_LIMITS = (
    "max_execution_time", "max_memory_usage", "max_memory_usage_for_user", "max_rows_to_read", "max_bytes_to_read",
    "max_result_rows", "max_result_bytes", "max_rows_to_group_by", "max_rows_to_sort", "max_rows_in_set",
    "max_rows_in_join", "max_bytes_in_join", "max_partitions_to_read", "max_concurrent_queries_for_user",
    "max_temporary_data_on_disk_size_for_user", "max_temporary_data_on_disk_size_for_query", "max_ast_elements",
)  # fmt: skip


def check_version(version: str) -> Finding:
    """Whether this release of the engine has no fault that loses data."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)\.(\d+)", version)
    if not found:
        detail = f"{version}: not a version such as 26.6.2.98; upgrade if it is older than that"
        return Finding("version", is_ok=True, is_warning=True, detail=detail)
    line, patch = (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))
    fixed_in = _TOKENS_FIXED.get(line)
    if line < min(_TOKENS_FIXED) or (fixed_in and patch < fixed_in):
        least = ".".join(map(str, line + fixed_in)) if fixed_in else "26.6.2.98"
        problem = (
            f"{version}: upgrade to {least} or later. This one can lose rows silently: the deduplication token of an "
            "insert counts for other partitions, too (ClickHouse #111031)"
        )
        return Finding("version", is_ok=False, detail=problem)
    if line < _PARTS_FIXED:
        problem = (
            f"{version}: upgrade to 26.6.2.98 or later when you can. After a restart this one can bring back "
            "partitions that a build has replaced (ClickHouse #107605); `carat verify` finds them"
        )
        return Finding("version", is_ok=True, is_warning=True, detail=problem)
    return Finding("version", is_ok=True, detail=version)


def clock_skew_s(warehouse: Warehouse) -> float:
    """Seconds between the clocks of this machine and of the warehouse."""
    now_ms = warehouse.scalar("SELECT toUnixTimestamp64Milli(now64(3))")
    return abs(datetime.now(tz=UTC).timestamp() - float(now_ms) / 1000)


def check_user(warehouse: Warehouse, *, has_shop_link: bool) -> Iterator[Finding]:
    """The rights, profile and quota of Carat's user on a server."""
    readonly = warehouse.query("SELECT toUInt8(value) FROM system.settings WHERE name = 'readonly'").item()
    if readonly:
        yield Finding(
            "profile",
            is_ok=True,
            is_warning=True,
            detail=f"user {warehouse.user} may only read (readonly = {readonly}): enough for query, status, plan and "
            "dashboards; what writes needs a user with readonly = 0",
        )
    else:
        yield from _fixed_settings(warehouse)
    wanted = reader_grants() if readonly else writer_grants(has_shop_link=has_shop_link)
    lacking = list(check_rights(warehouse, [_as_called(warehouse, grant) for grant in wanted]))
    yield from lacking
    if all(finding.is_ok for finding in lacking):
        detail = f"user {warehouse.user} has every right {'to read' if readonly else 'to write'}"
        yield Finding("rights", is_ok=True, detail=detail)
    yield from _limits(warehouse)
    yield from _quota(warehouse)


def _fixed_settings(warehouse: Warehouse) -> Iterator[Finding]:
    """Whether a constraint of the profile keeps an insert from being what it must be."""
    names = ", ".join(quote(name) for name in DURABILITY)
    fixed = warehouse.query(f"SELECT name, value FROM system.settings WHERE readonly AND name IN ({names})")
    wrong = {name: value for name, value in fixed.iter_rows() if value != str(DURABILITY[name])}
    if wrong:
        yield Finding("profile", is_ok=False, detail=how_to_unfix(warehouse.user, wrong, "inserts"))


def check_rights(warehouse: Warehouse, wanted: Iterable[Grant]) -> Iterator[Finding]:
    """Which of these rights the user does not have."""
    for grant in wanted:
        missing = _missing(warehouse, grant)
        if missing is None:
            continue
        need = "missing" if grant.is_required else "recommended"
        yield Finding(
            f"rights on {grant.on}",
            is_ok=not grant.is_required,
            is_warning=not grant.is_required,
            detail=f"{need}: {missing.statement(quote_user(warehouse.user))}; ({grant.purpose})",
        )


def _as_called(warehouse: Warehouse, grant: Grant) -> Grant:
    """The grant on the database as this server calls it."""
    database, dot, rest = grant.on.partition(".")
    return replace(grant, on=f"{warehouse.database(database)}{dot}{rest}")


def _missing(warehouse: Warehouse, grant: Grant) -> Grant | None:
    """What of these rights the user does not have."""

    def has(*privileges: str) -> bool:
        return warehouse.has_right(", ".join(f"{name} ON {grant.on}" for name in privileges))

    if has(*grant.privileges):
        return None
    missing = tuple(name for name in grant.privileges if len(grant.privileges) == 1 or not has(name))
    return Grant(missing, grant.on, grant.purpose, is_required=grant.is_required)


def _limits(warehouse: Warehouse) -> Iterator[Finding]:
    names = ", ".join(quote(name) for name in _LIMITS)
    found = warehouse.query(
        f"SELECT name, value FROM system.settings WHERE changed AND value NOT IN ('0', '') AND name IN ({names})"
    )
    if found.is_empty():
        return
    limits = ", ".join(f"{name} = {value}" for name, value in found.sort("name").iter_rows())
    yield Finding(
        "limits",
        is_ok=True,
        is_warning=True,
        detail=f"the profile of user {warehouse.user} has {limits}: a build or a report beyond that fails with an "
        f"error; to lift one: ALTER USER {quote_user(warehouse.user)} MODIFY SETTINGS {found['name'][0]} = 0",
    )


def _quota(warehouse: Warehouse) -> Iterator[Finding]:
    """The quotas that can end work, where the user may see them (SHOW QUOTAS)."""
    try:
        used = warehouse.query(
            "SELECT quota_name, duration, queries, max_queries, query_inserts, max_query_inserts, read_rows, "
            "max_read_rows, execution_time, max_execution_time FROM system.quota_usage"
        )
    except WarehouseError:
        return
    for row in used.iter_rows(named=True):
        limits = ", ".join(
            f"{row[name] or 0:g} of {row[f'max_{name}']:g} {name}"
            for name in ("queries", "query_inserts", "read_rows", "execution_time")
            if row[f"max_{name}"]
        )
        if limits:
            detail = f"quota {row['quota_name']} of {row['duration']} s: used {limits}; raise it with ALTER QUOTA"
            yield Finding("quota", is_ok=True, is_warning=True, detail=detail)
