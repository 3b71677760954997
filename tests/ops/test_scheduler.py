"""When the hourly work of `carat serve` is due, whatever happens to the machine's clock."""

from datetime import UTC, datetime, timedelta

import pytest

from app.ops.scheduler import HourlyClock

START = datetime(2026, 3, 1, 10, 20, tzinfo=UTC)


class Machine:
    """A machine whose clock can be set while its time passes."""

    def __init__(self) -> None:
        self.now = START
        self.elapsed_s = 500.0
        self.clock = HourlyClock(now=lambda: self.now, elapsed_s=lambda: self.elapsed_s)

    def pass_time(self, **time: float) -> None:
        self.now += timedelta(**time)
        self.elapsed_s += timedelta(**time).total_seconds()

    def set_clock(self, **by: float) -> None:
        self.now += timedelta(**by)

    def hours_done(self, **time: float) -> int:
        """How often the work was done while this time passed, minute by minute."""
        done = 0
        for _ in range(int(timedelta(**time) / timedelta(minutes=1))):
            self.pass_time(minutes=1)
            if self.clock.is_due():
                self.clock.note_done()
                done += 1
        return done


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    assert machine.clock.is_due()
    machine.clock.note_done()
    return machine


def test_the_work_is_due_at_the_full_hour(machine):
    machine.pass_time(minutes=39, seconds=59)
    assert not machine.clock.is_due()
    machine.pass_time(seconds=1)
    assert machine.clock.is_due()


@pytest.mark.parametrize("back", [{"days": 3}, {"hours": 2}, {"minutes": 61}, {"days": 400}])
def test_a_clock_that_is_set_back_does_not_stop_the_hours(machine, back):
    machine.set_clock(**{unit: -amount for unit, amount in back.items()})
    assert machine.hours_done(hours=5) in {5, 6}


@pytest.mark.parametrize("minutes", range(1, 60, 7))
def test_a_clock_that_is_set_back_by_minutes_every_hour_does_not_stop_the_hours(machine, minutes):
    done = 0
    for _ in range(6):
        done += machine.hours_done(hours=1)
        machine.set_clock(minutes=-minutes)
    assert done >= 5


def test_a_clock_that_jumps_ahead_costs_one_run_and_not_one_for_each_hour_skipped(machine):
    machine.set_clock(days=3)
    assert machine.hours_done(minutes=30) == 1
    machine.set_clock(days=-3)
    assert machine.hours_done(minutes=9) == 1


def test_after_a_suspend_the_work_is_due_at_once(machine):
    machine.set_clock(hours=7)  # the monotonic clock stood still
    assert machine.clock.is_due()
