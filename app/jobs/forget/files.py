"""Erases a person from the files that Carat keeps outside the warehouse: the log of errors, and the spool."""

from collections.abc import Callable
from pathlib import Path

from app.intake.spool import Corruption, read_segment
from app.intake.spool.segments import OPEN, delivered_segments, sealed_segments, segments
from app.jobs.forget.identifiers import Identifiers
from app.jobs.forget.redaction import redacted
from app.jobs.forget.search import Occurrence
from app.jobs.forget.spool import occurrences_in_spool, redact_spool
from app.settings import Settings

_COMPRESSED = (".gz", ".zst", ".xz", ".bz2")


def redact_log(settings: Settings, ids: Identifiers, *, change: bool) -> dict[str, int]:
    """Redact the person in the log of errors and its rotated files (only with `change`); named lines by file."""
    found = {}
    for path in _logs(settings):
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        lines = text.splitlines(keepends=True)
        clean = [redacted(line, ids) for line in lines]
        named = sum(old != new for old, new in zip(lines, clean, strict=True))
        if named and change:
            temporary = path.with_name(f"{path.name}.forgetting")
            temporary.touch(mode=0o600)  # as the log itself
            temporary.write_bytes("".join(clean).encode("utf-8", "surrogateescape"))
            temporary.chmod(path.stat().st_mode & 0o777)
            temporary.replace(path)
        if named:
            found[str(path)] = named
    return found


# Every place outside the warehouse where Carat stores personal data: a function for each.
FILE_STORES: tuple[Callable[..., dict[str, int]], ...] = (redact_log, redact_spool)


def redact_files(settings: Settings, ids: Identifiers, *, change: bool) -> dict[str, int]:
    """Redact the person in all of Carat's files (only with `change`); the number of lines or records by file."""
    found: dict[str, int] = {}
    for store in FILE_STORES:
        found |= store(settings, ids, change=change)
    return found


def occurrences_in_files(settings: Settings, ids: Identifiers) -> list[Occurrence]:
    """The files that still name the person."""
    lines = redact_log(settings, ids, change=False)
    return [*(Occurrence(path, "line", count) for path, count in lines.items()), *occurrences_in_spool(settings, ids)]


def unsearched_files(settings: Settings) -> list[str]:
    """Carat's own files in which the person cannot be found or erased, each in words."""
    found = [f"{path}: it is compressed" for path in _rotated(settings) if path.suffix in _COMPRESSED]
    if being_written := segments(settings.spool, OPEN):
        found.append(
            f"{len(being_written)} segment(s) that a collector is writing: searched, erased once they are closed"
        )
    for segment in (*sealed_segments(settings.spool), *delivered_segments(settings.spool)):
        try:
            damaged = sum(frame.size for frame in read_segment(segment.path) if isinstance(frame, Corruption))
        except OSError:
            continue
        if damaged:
            found.append(f"{segment.path}: {damaged:,} damaged bytes, searched only as plain text")
    return found


def _logs(settings: Settings) -> list[Path]:
    rotated = [path for path in _rotated(settings) if path.suffix not in (*_COMPRESSED, ".forgetting")]
    return [path for path in (settings.log, *rotated) if path.is_file()]


def _rotated(settings: Settings) -> list[Path]:
    return sorted(settings.log.parent.glob(f"{settings.log.name}[.-]*"))
