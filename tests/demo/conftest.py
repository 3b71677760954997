import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from app.demo.calls import Arrival, DemoPlan, day_arrivals


@dataclass(frozen=True)
class Month:
    """A small demo month as it arrives: all lines by day, and each readable record once."""

    plan: DemoPlan
    days: list[list[Arrival]]
    records: list[dict[str, Any]]


def moment_ms(record: dict[str, Any]) -> int:
    ts = record["ts"]
    return ts if isinstance(ts, int) else round(datetime.fromisoformat(ts).timestamp() * 1_000)


def readable(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        moment_ms(record)
    except (ValueError, KeyError, TypeError):
        return None
    return record if isinstance(record.get("endpoint"), str) else None


@pytest.fixture(scope="session")
def month() -> Month:
    plan = DemoPlan(calls=20_000)
    days = [day_arrivals(plan, day_index) for day_index in range(plan.days)]
    lines = dict.fromkeys(arrival.line for day in days for arrival in day)
    return Month(plan, days, [record for line in lines if (record := readable(line)) is not None])
