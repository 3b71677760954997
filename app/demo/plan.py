"""What a demo month looks like: how many calls, from when, and what is special on which day."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import accumulate

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

# The shop changes its catalog at night, when hardly anybody is awake.
_UPDATE_MS = 4 * HOUR_MS

CAMPAIGN = "spring-sparkle"

# Monday to Sunday: people look at jewelry when they have time for it.
_WEEKDAY_WEIGHTS = (0.94, 0.91, 0.92, 0.96, 1.02, 1.21, 1.26)
_CAMPAIGN_WEIGHT = 1.45
_CAMPAIGN_FROM, _CAMPAIGN_DAYS = 14, 7
_OUTAGE_DAY = 9
_TIRELESS_DAY = 11


def shop_time(moment_ms: int) -> datetime:
    """The moment as the shop's database stores it: UTC, in whole seconds, naive."""
    return datetime.fromtimestamp(moment_ms // SECOND_MS, tz=UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class DemoPlan:
    """A demo month: the same plan gives the same bytes.

    `calls` is the target for the whole period, met within 3 % from about 5 000 up. Days are UTC days, counted from 0.
    """

    calls: int = 300_000
    seed: int = 7
    start: date = date(2026, 3, 1)
    days: int = 31

    def __post_init__(self) -> None:
        if self.calls < 1 or self.days < 1:
            msg = f"a demo needs at least one call and one day, not {self.calls} calls on {self.days} days"
            raise ValueError(msg)

    @cached_property
    def starts_ms(self) -> int:
        """The first moment, epoch ms."""
        return int(datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC).timestamp()) * 1_000

    @property
    def ends_ms(self) -> int:
        """The first moment after the last day, epoch ms."""
        return self.day_starts_ms(self.days)

    def day(self, day_index: int) -> date:
        """The calendar day."""
        return self.start + timedelta(days=day_index)

    def day_starts_ms(self, day_index: int) -> int:
        """The day's first moment, epoch ms."""
        return self.starts_ms + day_index * DAY_MS

    def catalog_version_at(self, moment_ms: int) -> int:
        """The catalog version valid at the moment: the day's from 04:00, before that the previous day's."""
        return min(max(0, (moment_ms - self.starts_ms - _UPDATE_MS) // DAY_MS), self.days - 1)

    def catalog_version_starts_ms(self, version: int) -> int:
        """The moment from which a catalog version is valid, epoch ms; the first one is valid from the plan's start."""
        return self.day_starts_ms(version) + (_UPDATE_MS if version else 0)

    def is_campaign(self, day_index: int) -> bool:
        """Whether the campaign runs on that day."""
        return _CAMPAIGN_FROM <= day_index < _CAMPAIGN_FROM + _CAMPAIGN_DAYS

    def share_of_day(self, day_index: int) -> float:
        """The day's share of the whole period's traffic."""
        return self._day_weights[day_index] / self._total_weight

    @cached_property
    def checkout_outage_ms(self) -> tuple[int, int]:
        """Start and end (exclusive, epoch ms) of the checkout outage: two hours of one evening."""
        begins = self.day_starts_ms(min(_OUTAGE_DAY, self.days // 2)) + 18 * HOUR_MS
        return begins, begins + 2 * HOUR_MS

    @cached_property
    def tireless_ms(self) -> tuple[int, int]:
        """Start and end (exclusive, epoch ms) of the crawl that never pauses: it spans two days and two midnights."""
        if self.days < 4:
            return self.starts_ms, self.starts_ms
        begins = self.day_starts_ms(min(_TIRELESS_DAY, self.days - 4)) + 3 * HOUR_MS
        return begins, begins + 54 * HOUR_MS

    def halves(self) -> tuple[range, range]:
        """Two ranges of days of about equal work; the second must also regenerate what the first left undelivered."""
        reached = list(accumulate(self._day_weights))
        middle = self._total_weight / 2 + 1
        first = next((day for day, weight in enumerate(reached, 1) if weight >= middle), self.days)
        return range(first), range(first, self.days)

    @cached_property
    def _day_weights(self) -> tuple[float, ...]:
        return tuple(
            _WEEKDAY_WEIGHTS[self.day(day_index).weekday()] * (_CAMPAIGN_WEIGHT if self.is_campaign(day_index) else 1)
            for day_index in range(self.days)
        )

    @cached_property
    def _total_weight(self) -> float:
        return sum(self._day_weights)
