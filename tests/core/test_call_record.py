"""Times of call records: a number is a Unix time in the unit that its magnitude tells."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.call_record import Line, RecordLimits, RejectedRecordError, epoch_ms, read_line

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MOMENT_MS = epoch_ms(datetime(2026, 3, 7, 10, 2, 17, 123_000, tzinfo=UTC))
EARLIEST_MS, LATEST_MS = epoch_ms(datetime(1990, 1, 1, tzinfo=UTC)), epoch_ms(NOW)


def values_of(ts: object, endpoint: str = "/a") -> tuple:
    data = msgspec.json.encode({"ts": ts, "method": "GET", "endpoint": endpoint})
    limits = RecordLimits(max_record_bytes=10_000)
    return read_line(Line(0, data, len(data)), times=limits.times(NOW), limits=limits)


@pytest.mark.parametrize("ts", [
    MOMENT_MS, str(MOMENT_MS), MOMENT_MS * 1000, MOMENT_MS / 1000, f"{MOMENT_MS / 1000:.3f}", "2026-03-07T10:02:17.123Z",
])  # fmt: skip
def test_a_time_means_the_same_in_every_unit(ts):
    assert values_of(ts)[0] == MOMENT_MS


@pytest.mark.parametrize("ts", [MOMENT_MS // 1000, str(MOMENT_MS // 1000), float(MOMENT_MS // 1000)])
def test_whole_seconds_are_seconds_and_not_milliseconds_of_january_1970(ts):
    assert values_of(ts)[0] == MOMENT_MS - 123


@given(st.integers(EARLIEST_MS, LATEST_MS))
def test_seconds_milliseconds_and_microseconds_of_any_moment_agree(moment_ms):
    assert {values_of(ts)[0] for ts in (moment_ms, moment_ms * 1000 + 999, moment_ms / 1000)} == {moment_ms}


@pytest.mark.parametrize("ts", [0, 17, -1_772_877_737, "0", 1e300, "2026-03-07 10:02:17", "07/Mar/2026:10:02:17 +0100"])
def test_what_is_not_a_moment_since_1970_is_rejected(ts):
    with pytest.raises(RejectedRecordError):
        values_of(ts)


def test_an_endpoint_is_kept_as_sent_with_its_query_string():
    assert "/a?q=ring&page=2" in values_of(MOMENT_MS, endpoint="/a?q=ring&page=2")
