"""The files of the contest: the calls of a generated day in the order of their time, cut into so many arrivals."""

import json
from pathlib import Path

import polars as pl

from bench.day import Dataset

_TEXTS = (
    "method", "endpoint", "visitor_id", "session_token", "user_id", "status", "duration_ms", "ip", "user_agent",
    "referrer", "page_url",
)  # fmt: skip
_VERSION = 1


def arrivals_of(day: Dataset, arrivals: int) -> list[Path]:
    """NDJSON files of about as many calls each; no two responses are equal, so that no cache by text helps."""
    folder = day.folder / f"arrivals-{arrivals}"
    files = [folder / f"{number:02}.ndjson" for number in range(arrivals)]
    mark = folder / "written.json"
    if mark.exists() and json.loads(mark.read_text()) == _VERSION:
        return files
    folder.mkdir(exist_ok=True)
    lines = pl.scan_parquet(day.parquet).sort("ts", "call_id").select(_line().alias("line")).collect()
    for number, file in enumerate(files):
        first, last = (lines.height * place // arrivals for place in (number, number + 1))
        file.write_text("\n".join(lines["line"][first:last]) + "\n")
    mark.write_text(json.dumps(_VERSION))
    return files


def _line() -> pl.Expr:
    at = pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    plain = pl.struct(at.alias("ts"), "call_id", *_TEXTS).struct.json_encode()
    response = pl.concat_str(pl.lit('{"trace":"'), "call_id", pl.lit('",'), pl.col("response").str.slice(1))
    return pl.concat_str(
        plain.str.strip_suffix("}"), pl.lit(',"request":'), "request", pl.lit(',"response":'), response, pl.lit("}")
    )
