"""Business days: local dates as bounds of UTC milliseconds, right on days of 23, 24 and 25 hours."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class DayBounds:
    """The instants, in epoch ms, that bound a business day and its two neighbours: `[start, end)` is the day."""

    day: date
    previous_start: int
    start: int
    end: int
    next_end: int


def day_bounds(day: date, zone: ZoneInfo) -> DayBounds:
    """The bounds of a business day. Where clocks skip midnight, the day begins at the first instant of its date."""
    starts = [midnight_ms(day + timedelta(days=offset), zone) for offset in (-1, 0, 1, 2)]
    return DayBounds(day, *starts)


def midnight_ms(day: date, zone: ZoneInfo) -> int:
    """The first instant of a local date, in epoch milliseconds."""
    return (datetime.combine(day, time(), tzinfo=zone).astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)


def business_day(epoch_ms: int, zone: ZoneInfo) -> date:
    """The local date of an instant."""
    return (_EPOCH + timedelta(milliseconds=epoch_ms)).astimezone(zone).date()
