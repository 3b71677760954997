"""Stores readings of advertising costs: their rows, then one row that makes them count."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import polars as pl

from app.contracts import ORDER_COST_READINGS, SPEND_FILES, SPEND_READINGS, Table
from app.core.errors import WarehouseError
from app.core.sql import quote
from app.warehouse import Warehouse

_DAY_KEY = ("platform", "account", "spend_date")
_MEASURES = (
    "campaign_id", "campaign", "ad_group_id", "ad_group", "ad_id", "ad", "level", "amount_original", "currency",
    "clicks", "impressions", "platform_conversions", "platform_value_original", "is_spread", "time_zone",
    "converted_to",
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """A file or table that was understood, with rows as `SPEND_READINGS` or `ORDER_COST_READINGS` want them."""

    file_id: str
    reading_id: str
    exported_at: datetime
    read_at: datetime
    file: str
    source: str
    platform: str
    table: Table
    rows: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def days(self) -> pl.Series:
        return self.rows["order_date" if self.table is ORDER_COST_READINGS else "spend_date"]

    @property
    def record(self) -> dict[str, Any]:
        """The reading as a row of `etl.spend_files`."""
        rows = self.rows
        return {
            **self.stamp,
            "file": self.file,
            "source": self.source,
            "platform": self.platform,
            "platforms": sorted(rows["platform"].unique()),
            "accounts": sorted(rows["account"].unique()),
            "first_day": self.days.min(),
            "last_day": self.days.max(),
            "rows": rows.height,
            "currencies": sorted(rows["currency"].unique()),
            "notes": list(self.notes),
        }

    @property
    def stamp(self) -> dict[str, Any]:
        """What every row says of the reading that it is of."""
        return {name: getattr(self, name) for name in ("file_id", "reading_id", "exported_at", "read_at")}


def read_before(warehouse: Warehouse, file_id: str) -> datetime | None:
    """When the same file was read with the same answers; None if it was not."""
    found = warehouse.query(
        f"SELECT read_at FROM {SPEND_FILES.full_name} WHERE file_id = {{file_id:String}} ORDER BY read_at LIMIT 1",
        {"file_id": file_id},
        schema={"read_at": SPEND_FILES.schema["read_at"]},
    )
    return found["read_at"][0] if found.height else None


def last_read_at(warehouse: Warehouse) -> datetime | None:
    """When the last reading was stored."""
    found = warehouse.query(
        f"SELECT max(read_at) AS read_at FROM {SPEND_FILES.full_name} HAVING count() > 0",
        schema={"read_at": SPEND_FILES.schema["read_at"]},
    )
    return found["read_at"][0] if found.height else None


def store(warehouse: Warehouse, reading: Reading) -> None:
    """Store a reading whole; until its row of `etl.spend_files` is there, nobody sees any of it."""
    _remove_interrupted(warehouse)
    table = reading.table
    stamped = reading.rows.with_columns(
        pl.lit(value, table.schema[name]).alias(name) for name, value in reading.stamp.items()
    )
    warehouse.require_lease()
    warehouse.insert(table, stamped.select(list(table.schema)))
    _require_stored(warehouse, reading)
    warehouse.require_lease()
    warehouse.insert(SPEND_FILES, pl.DataFrame([reading.record], schema=SPEND_FILES.schema, orient="row"))


def _require_stored(warehouse: Warehouse, reading: Reading) -> None:
    """Raise WarehouseError unless the table holds what was written, to the last millionth."""
    name = "cost_original" if reading.table is ORDER_COST_READINGS else "amount_original"
    rows, total = warehouse.query(
        f"SELECT count() AS rows, sum({name}) AS total FROM {reading.table.full_name} WHERE reading_id = {{id:String}}",
        {"id": reading.reading_id},
    ).row(0)
    expected = reading.rows[name].sum()
    if rows != reading.rows.height or (total or 0) != (expected or 0):
        raise WarehouseError(
            f"{reading.table.full_name} holds {rows} rows and {total} of {reading.file}, {reading.rows.height} and "
            f"{expected} were written: not published. Run the same command again"
        )


def _remove_interrupted(warehouse: Warehouse) -> None:
    """Delete the rows of readings that a killed process did not finish: they count nowhere."""
    for table in (SPEND_READINGS, ORDER_COST_READINGS):
        unfinished = warehouse.query(
            f"SELECT DISTINCT reading_id FROM {table.full_name} "
            f"WHERE reading_id NOT IN (SELECT reading_id FROM {SPEND_FILES.full_name})",
            schema={"reading_id": pl.String()},
        )
        if unfinished.height:  # by their names: a replicated table takes no subquery here
            names = ", ".join(map(quote, unfinished["reading_id"]))
            warehouse.command(
                f"ALTER TABLE {table.full_name} DELETE WHERE reading_id IN ({names}) SETTINGS mutations_sync = 2"
            )


def latest_days(warehouse: Warehouse, reading: Reading) -> pl.DataFrame:
    """The latest reading of each of the days: `platform, account, spend_date, reading_id, exported_at`."""
    return warehouse.query(
        f"""SELECT platform, account, spend_date, argMax(reading_id, (exported_at, read_at)) AS latest_id,
            max(exported_at) AS latest_export
        FROM {SPEND_READINGS.full_name}
        WHERE spend_date BETWEEN {{first:Date}} AND {{last:Date}} AND platform IN {{platforms:Array(String)}}
            AND reading_id IN (SELECT reading_id FROM {SPEND_FILES.full_name})
        GROUP BY platform, account, spend_date""",
        {
            "first": reading.days.min(),
            "last": reading.days.max(),
            "platforms": reading.record["platforms"],
        },
        schema={
            **{name: SPEND_READINGS.schema[name] for name in _DAY_KEY},
            "latest_id": pl.String(),
            "latest_export": SPEND_READINGS.schema["exported_at"],
        },
    ).rename({"latest_id": "reading_id", "latest_export": "exported_at"})


def days_of_newer_files(reading: Reading, latest: pl.DataFrame) -> int:
    """How many of the reading's days show a newer file, and will go on to do so; `latest` as of `latest_days`."""
    newer = latest.filter(pl.col("exported_at") > reading.exported_at)
    return reading.rows.select(_DAY_KEY).unique().join(newer, on=_DAY_KEY, how="semi").height


def days_without_common_campaign(warehouse: Warehouse, reading: Reading, latest: pl.DataFrame) -> list[date]:
    """Days that the reading replaces although they have no campaign in common: maybe those of another account."""
    replaced = _present_rows(warehouse, reading, latest).filter(pl.col("exported_at") <= reading.exported_at)
    key = pl.concat_str(pl.col("campaign_id"), pl.col("campaign").str.to_lowercase(), separator="\0")
    old = replaced.select(*_DAY_KEY, key.alias("key")).unique()
    new = reading.rows.select(*_DAY_KEY, key.alias("key")).unique()
    common = old.join(new, on=[*_DAY_KEY, "key"], how="semi").select(_DAY_KEY).unique()
    both = old.join(new, on=_DAY_KEY, how="semi").select(_DAY_KEY).unique()
    return sorted(both.join(common, on=_DAY_KEY, how="anti")["spend_date"].unique())


def only_changed_days(warehouse: Warehouse, reading: Reading) -> pl.DataFrame:
    """The reading's rows of days that differ from what is there: a table is read again and again."""
    if reading.table is ORDER_COST_READINGS:
        present = warehouse.query("SELECT * FROM dwh.order_costs", schema=_schema_of(ORDER_COST_READINGS))
        names = [name for name in reading.rows.columns if name not in {"cost", "sale", "rate"}]
        return reading.rows.join(present.select(names), on=names, how="anti", nulls_equal=True, maintain_order="left")
    names = [*_DAY_KEY, *_MEASURES]
    present = _present_rows(warehouse, reading, latest_days(warehouse, reading))
    old, new = present.select(names), reading.rows.select(names)
    differing = pl.concat(
        [new.join(old, on=names, how="anti", nulls_equal=True), old.join(new, on=names, how="anti", nulls_equal=True)]
    )
    return reading.rows.join(differing.select(_DAY_KEY).unique(), on=_DAY_KEY, how="semi", maintain_order="left")


def _present_rows(warehouse: Warehouse, reading: Reading, latest: pl.DataFrame) -> pl.DataFrame:
    """The rows that show at present, of the reading's platforms and days."""
    schema = {name: SPEND_READINGS.schema[name] for name in (*_DAY_KEY, *_MEASURES, "reading_id", "exported_at")}
    rows = warehouse.query(
        f"SELECT {', '.join(schema)} FROM {SPEND_READINGS.full_name} WHERE reading_id IN {{ids:Array(String)}} "
        "AND spend_date BETWEEN {first:Date} AND {last:Date}",
        {
            "ids": latest["reading_id"].unique().to_list(),
            "first": reading.days.min(),
            "last": reading.days.max(),
        },
        schema=schema,
    )
    return rows.join(latest, on=[*_DAY_KEY, "reading_id"], how="semi", maintain_order="left")


def _schema_of(table: Table) -> Mapping[str, Any]:
    return {name: dtype for name, dtype in table.schema.items() if name != "reading_id"}
