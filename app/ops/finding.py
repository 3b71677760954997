"""The result of one check of `carat doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check: whether it passed, and what it found or how to fix it; a warning has passed and needs a look."""

    check: str
    is_ok: bool
    detail: str
    is_warning: bool = False
