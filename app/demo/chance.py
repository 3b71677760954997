"""Seeded randomness that gives the same draws on every machine and Python version.

It only uses `random()` and `getrandbits()`, whose streams are stable; the other methods of `random.Random` may change
between versions.
"""

import math
from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


def seeded(seed: int, *names: object) -> Random:
    """A separate stream for each purpose, so that drawing more for one never changes another."""
    return Random("/".join(map(str, (seed, *names))))


def pick(rng: Random, choices: Sequence[T]) -> T:
    """One of the choices, all equally likely."""
    return choices[int(rng.random() * len(choices))]


def between(rng: Random, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return low + int(rng.random() * (high - low + 1))


def normal(rng: Random) -> float:
    """A draw from the standard normal distribution."""
    return math.sqrt(-2 * math.log(1 - rng.random())) * math.cos(2 * math.pi * rng.random())


def geometric(rng: Random, mean: float, most: int) -> int:
    """A geometric draw with this mean: 0, 1, 2, … up to most."""
    if mean <= 0:
        return 0
    return min(most, int(math.log(1 - rng.random()) / math.log(mean / (1 + mean))))


def shuffled(rng: Random, things: Iterable[T]) -> list[T]:
    """The things in random order."""
    return [thing for _, _, thing in sorted((rng.random(), place, thing) for place, thing in enumerate(things))]


class Weighted(Generic[T]):
    """Choices drawn in proportion to their weights."""

    __slots__ = ("_bounds", "choices")

    def __init__(self, choices: Iterable[tuple[T, float]]) -> None:
        pairs = list(choices)
        self.choices: list[T] = [choice for choice, _ in pairs]
        self._bounds = list(accumulate(weight for _, weight in pairs))

    def draw(self, rng: Random) -> T:
        """One choice."""
        return self.choices[bisect(self._bounds, rng.random() * self._bounds[-1], hi=len(self.choices) - 1)]
