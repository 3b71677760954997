"""Exponential backoff: the pauses between attempts that keep failing."""


class Backoff:
    """Pauses that double with each failure in a row, from `first_s` to `longest_s` seconds."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = 0.0

    def next_s(self) -> float:
        """The pause after another failure."""
        self._pause_s = min(max(self._pause_s * 2, self._first_s), self._longest_s)
        return self._pause_s

    def reset(self) -> None:
        """Start over after a success."""
        self._pause_s = 0.0
