"""Exponential backoff."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.core.backoff import Backoff


def test_pauses_double_up_to_the_longest():
    backoff = Backoff(1.0, 10.0)
    assert [backoff.next_s() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_reset_starts_over_with_the_first_pause():
    backoff = Backoff(0.5, 60.0)
    assert [backoff.next_s(), backoff.next_s()] == [0.5, 1.0]
    backoff.reset()
    assert backoff.next_s() == 0.5


@given(st.floats(0.001, 10), st.floats(10, 1000), st.integers(2, 50))
def test_pauses_never_shrink_and_stay_within_their_bounds(first_s, longest_s, failures):
    backoff = Backoff(first_s, longest_s)
    pauses = [backoff.next_s() for _ in range(failures)]
    assert all(first_s <= pause <= longest_s for pause in pauses)
    assert all(earlier <= later for earlier, later in pairwise(pauses))
