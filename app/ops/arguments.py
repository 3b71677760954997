"""Parses what a person types after a verb: days, moments, and names of tables."""

from datetime import UTC, date, datetime

from app.core.errors import SettingsError


def parse_span(day: str | None, first: str | None, last: str | None) -> tuple[date | None, date | None]:
    """The first and the last business day of `--date`, or of `--from` and `--to`; None where there is no limit."""
    if day and (first or last):
        raise SettingsError("--date cannot be combined with --from or --to")
    start, end = _date(day or first), _date(day or last)
    if start and end and end < start:
        raise SettingsError(f"--to {end} is before --from {start}")
    return start, end


def parse_instant(text: str | None, *, option: str = "--at") -> datetime | None:
    """A moment in UTC; one without an offset is taken as UTC."""
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(f"{option} {text!r} is not a valid time; write it as 2026-03-01T12:00:00Z") from None
    return at.replace(tzinfo=UTC) if at and at.tzinfo is None else at and at.astimezone(UTC)


def parse_names(text: str | None) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def parse_jobs(text: str | None) -> tuple[str, ...]:
    """The tables of `dwh` that are named, in the order in which they are built; all of them where none is."""
    from app.contracts import published_tables  # noqa: PLC0415  takes Polars, which the other verbs do without

    known = [table.name for table in published_tables()]
    names = parse_names(text) or known
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"--jobs {unknown[0]}: choose from {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _date(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(f"{text!r} is not a valid date; write it as 2026-03-01") from None
