"""What may pass is tried again, for as long as is allowed."""

import pytest

from app.core import retry
from app.core.retry import attempts


class Passing(Exception):
    """Passes after some attempts."""


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The pauses that were made, on a clock that only they move."""
    made: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: sum(made))
    return made


def tried(failures: int, timeout_s: float, error: type[Exception] = Passing) -> int:
    """The number of attempts until one succeeds, of which so many fail first."""
    number = 0
    for attempt in attempts(Passing, timeout_s=timeout_s):
        with attempt:
            number += 1
            if number <= failures:
                raise error
    return number


def test_what_succeeds_is_done_once(pauses):
    assert tried(failures=0, timeout_s=60) == 1
    assert pauses == []


def test_what_fails_is_tried_again_after_growing_pauses(pauses):
    assert tried(failures=3, timeout_s=60) == 4
    assert len(pauses) == 3
    assert pauses[0] == 0.5
    assert pauses[2] <= 2


def test_without_a_timeout_there_is_one_attempt(pauses):
    with pytest.raises(Passing):
        tried(failures=1, timeout_s=0)
    assert pauses == []


def test_the_last_error_is_raised_when_the_time_is_up(pauses):
    with pytest.raises(Passing):
        tried(failures=1000, timeout_s=60)
    assert sum(pauses) < 60


def test_another_error_is_not_retried(pauses):
    with pytest.raises(KeyError):
        tried(failures=1, timeout_s=60, error=KeyError)
    assert pauses == []
