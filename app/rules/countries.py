"""The country of an IP address, from a MaxMind database file that the installation supplies; no network is used."""

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import polars as pl

from app.core.addresses import parse_address
from app.core.errors import SettingsError

if TYPE_CHECKING:
    from maxminddb import Reader

COUNTRY_SCHEMA = pl.Schema({"ip": pl.String(), "country": pl.String()})
_MOST_KNOWN = 1_000_000
_FIELDS = ("country", "registered_country")


@dataclass(frozen=True)
class Countries:
    """A country database; without one, every country is empty. Each distinct address is looked up once per run."""

    digest: str = ""
    built_at: datetime | None = None
    kind: str = ""
    _reader: "Reader | None" = None
    _known: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _looking: Lock = field(default_factory=Lock, repr=False, compare=False)

    def of(self, ips: Iterable[str]) -> pl.DataFrame:
        """`ip, country` of the distinct addresses; ISO 3166 codes, empty if the database has none."""
        distinct = sorted(set(ips))
        if self._reader is None:
            return pl.DataFrame({"ip": distinct, "country": [""] * len(distinct)}, schema=COUNTRY_SCHEMA)
        with self._looking:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            for ip in distinct:
                if ip not in self._known:
                    self._known[ip] = self._look_up(ip)
            found = [self._known[ip] for ip in distinct]
        return pl.DataFrame({"ip": distinct, "country": found}, schema=COUNTRY_SCHEMA)

    def _look_up(self, ip: str) -> str:
        assert self._reader is not None
        address = parse_address(ip)
        if address is None or (address.version == 6 and self._reader.metadata().ip_version == 4):  # noqa: PLR2004
            return ""
        record = self._reader.get(address)
        for name in _FIELDS:
            code = _iso_code(record, name)
            if code:
                return code
        return ""


def _iso_code(record: Any, name: str) -> str:
    """The code in a record, as MaxMind, DB-IP and IPinfo write it: {name: {"iso_code": "DE"}} or {name: "DE"}."""
    if not isinstance(record, dict):
        return ""
    value = record.get(name)
    code = value.get("iso_code") if isinstance(value, dict) else record.get("country_code", value)
    return code.upper() if isinstance(code, str) and len(code) == 2 and code.isalpha() else ""  # noqa: PLR2004


def load_countries(path: Path | None) -> Countries:
    """The database in the file; SettingsError if it cannot be read."""
    if path is None:
        return Countries()
    if find_spec("maxminddb") is None:
        raise SettingsError(
            f"CARAT_GEO_DATABASE needs a library that is not installed: {sys.executable} -m pip install maxminddb"
        )
    import maxminddb  # noqa: PLC0415  an optional extra

    try:
        data = path.read_bytes()
        reader = maxminddb.open_database(path)
        metadata = reader.metadata()
    except OSError as error:
        raise SettingsError(f"CARAT_GEO_DATABASE: cannot read {path}: {error.strerror}") from None
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        raise SettingsError(f"CARAT_GEO_DATABASE: {path} is not a valid MaxMind database: {error}") from None
    built_at = datetime.fromtimestamp(metadata.build_epoch, tz=UTC)
    return Countries(hashlib.sha256(data).hexdigest()[:16], built_at, metadata.database_type, reader)
