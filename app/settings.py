"""The one place where Carat reads its environment: `CARAT_*` variables, `.env`, and secrets from files."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import EnvSettingsSource

from app.core import addresses
from app.core.addresses import Addresses
from app.core.errors import SettingsError

_SHIPPED = Path(__file__).parent / "rules"
SHIPPED_ENDPOINT_MAPS = _SHIPPED / "endpoint_maps"
SHIPPED_SNAPSHOT_PLANS = _SHIPPED / "snapshot_plans"
SHIPPED_TRACKING = SHIPPED_ENDPOINT_MAPS / "demo.toml"
SHIPPED_SNAPSHOTS = SHIPPED_SNAPSHOT_PLANS / "demo.toml"
SHIPPED_DEVICES = _SHIPPED / "devices.toml"
SHIPPED_CHANNELS = _SHIPPED / "channels.toml"
_PREFIX = "CARAT_"
HOST = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_DURATION = re.compile(r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>s|sec|m|min|h)?")
_LONGEST_AMOUNT = 12
_SHORTEST_KEY = 16
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}


def secret_file(name: str) -> Path | None:
    """The file that holds this setting, where it is in one."""
    path = os.environ.get(f"{_PREFIX}{name.upper()}_FILE")
    return Path(path) if path else None


class _SecretFiles(EnvSettingsSource):
    """`CARAT_X_FILE=/path` gives the setting X the file's content: how systemd and containers hand over secrets."""

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self.settings_cls.model_fields:
            path = secret_file(name)
            if path:
                try:
                    found[name] = path.read_text(encoding="utf-8").strip()
                except OSError as error:
                    raise SettingsError(f"{_PREFIX}{name.upper()}_FILE: cannot read {path}: {error.strerror}") from None
                except UnicodeDecodeError:
                    raise SettingsError(f"{_PREFIX}{name.upper()}_FILE: {path} holds no text in UTF-8") from None
        return found


class Settings(BaseSettings):
    """What an installation can decide; every field has a default that runs on one machine without a server."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    warehouse: SecretStr = Field(
        SecretStr("chdb://./var/warehouse"),
        description="chdb:///path (embedded engine) or clickhouse://user:pass@host:8123/?secure=true",
    )
    shop_db: SecretStr | None = Field(None, description="sqlite:///path or mysql://user:pass@host:3306/shop")
    timezone: str = Field("UTC", description="business time zone: days begin at its midnight")
    session_timeout: timedelta = Field(
        timedelta(minutes=30), description="a longer pause opens a new session: 30 (minutes), 30min, 1800s, PT30M"
    )
    tracking: Path = Field(SHIPPED_TRACKING, description="endpoint map: which call is which event")
    snapshots: Path = Field(
        SHIPPED_SNAPSHOTS, description="snapshot plan: which tables of the shop are kept in history"
    )
    snapshot_timeout_s: Annotated[int, Field(ge=1)] = Field(1800, description="longest time that reading may take")
    max_deleted_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="a snapshot in which a larger share of a table's rows vanishes is refused"
    )
    max_replica_lag_s: Annotated[int, Field(ge=0)] = Field(300, description="a replica further behind is not read")
    scratch: Path = Field(Path("var/scratch"), description="directory for what is read before it is compared")
    raw_retention_days: Annotated[int, Field(ge=0)] = Field(0, description="days pd.api_calls is kept; 0 keeps all")
    max_record_bytes: Annotated[int, Field(ge=1024)] = Field(1024 * 1024, description="largest call record taken")
    max_nesting: Annotated[int, Field(ge=2, le=500)] = Field(
        64, description="how deep lists and objects of a call record may stand in one another"
    )
    shard_calls: Annotated[int, Field(ge=1000)] = Field(80_000, description="calls a worker of a build holds in memory")
    days_at_once: Annotated[int, Field(ge=1, le=64)] = Field(2, description="days that are built at the same time")
    max_row_factor: Annotated[float, Field(ge=0)] = Field(
        10, description="a finished day with so many times more or fewer rows than usual is not published; 0: any is"
    )
    patience_s: Annotated[float, Field(ge=0)] = Field(
        120, description="how long work is tried again while the warehouse is gone"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        min(os.cpu_count() or 1, 4), description="shards of a day that are built at the same time"
    )
    metabase_url: str | None = Field(None, description="where Metabase runs: https://metabase.shop.example")
    metabase_api_key: SecretStr | None = Field(None, description="API key of Metabase, of its group Administrators")
    metabase_warehouse: SecretStr | None = Field(
        None, description="the warehouse as Metabase reaches it, if by another name or user: clickhouse://reader:pw@ch"
    )
    devices: Path = Field(SHIPPED_DEVICES, description="rules for devices and bots by user agent")
    channels: Path = Field(SHIPPED_CHANNELS, description="rules for channels; `extends = true` keeps the shipped ones")
    own_hosts: str = Field("", description="the shop's own hosts, by commas: no referral comes from there")
    max_calls_per_minute: Annotated[int, Field(ge=0)] = Field(
        180, description="a session with more calls within a minute is a bot's; 0 believes any number"
    )
    ip: Literal["keep", "truncate", "hash"] = Field(
        "keep", description="what is kept of addresses: all, the network (/24 and /48), or a keyed hash"
    )
    ip_key: SecretStr = Field(SecretStr(""), description="the key of hashed addresses, 16 characters or more")
    geo_database: Path | None = Field(None, description="MaxMind file (.mmdb) that says the country of an address")

    write_keys: SecretStr | None = Field(None, description="keys that may send calls to the collector, a,b")
    collect_max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        5 * 1024**2, description="largest body of a request to the collector, as it is sent"
    )
    collect_max_decompressed_bytes: Annotated[int, Field(ge=1024)] = Field(
        20 * 1024**2, description="the same, decompressed"
    )
    collect_max_records: Annotated[int, Field(ge=1)] = Field(5000, description="most call records in one request")
    collect_max_record_bytes: Annotated[int, Field(ge=1024)] = Field(
        256 * 1024, description="largest call record that the collector takes"
    )
    collect_max_held_bytes: Annotated[int, Field(ge=1024)] = Field(
        64 * 1024**2, description="bytes of requests that are taken in at the same time; 429 beyond"
    )
    collect_max_connections: Annotated[int, Field(ge=1)] = Field(
        2000, description="open connections; beyond, those that wait longest for a request are closed"
    )
    collect_head_timeout_s: Annotated[float, Field(gt=0)] = Field(
        10, description="longest time for a request's head to come"
    )
    collect_body_timeout_s: Annotated[float, Field(gt=0)] = Field(30, description="longest time for its body to come")
    collect_idle_timeout_s: Annotated[float, Field(gt=0)] = Field(
        60, description="a connection without a request for so long is closed"
    )

    spool: Path = Field(Path("var/spool"), description="directory for what was collected and is not delivered yet")
    spool_segment_bytes: Annotated[int, Field(ge=4096)] = Field(
        64 * 1024**2, description="a segment of the spool that is larger is closed, and can be delivered"
    )
    spool_segment_s: Annotated[float, Field(gt=0)] = Field(10, description="so is one that is older, in seconds")
    spool_max_bytes: Annotated[int, Field(ge=0)] = Field(
        20 * 1024**3, description="the collector answers 503 while so much waits for delivery; 0: no limit"
    )
    spool_min_free_bytes: Annotated[int, Field(ge=0)] = Field(
        1024**3, description="it does so, too, while the disk of the spool has less room left"
    )
    spool_keep_hours: Annotated[float, Field(ge=0)] = Field(
        48, description="hours a delivered segment is kept, unless the room is needed"
    )

    @field_validator("session_timeout", mode="before")
    @classmethod
    def _minutes_when_bare(cls, value: Any) -> Any:
        if match := _DURATION.fullmatch(str(value).strip()):
            if len(match["amount"]) > _LONGEST_AMOUNT:
                raise ValueError("must lie between 1 second and 12 hours")
            return timedelta(**{_UNITS[(match["unit"] or "m")[0]]: float(match["amount"])})
        return value

    @field_validator("session_timeout")
    @classmethod
    def _shorter_than_a_business_day(cls, value: timedelta) -> timedelta:
        if not timedelta(seconds=1) <= value <= timedelta(hours=12):
            raise ValueError("must lie between 1 second and 12 hours")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError, which pydantic does not report
            raise ValueError(f"no time zone is called {value!r}; use a name such as Europe/Berlin") from None
        return value

    @field_validator("warehouse")
    @classmethod
    def _known_engine(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url.startswith(("chdb://", "clickhouse://")):
            raise ValueError("must begin with chdb:// or clickhouse://")
        if url.startswith("clickhouse://"):
            try:
                has_host = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
            except ValueError:
                has_host = False
            if not has_host:
                raise ValueError(
                    "is no URL such as clickhouse://user:password@host:8123/ (in a password, @ is written %40, / %2F)"
                )
        return value

    @field_validator("metabase_url")
    @classmethod
    def _known_metabase(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            parts = urlsplit(value)
            is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError("is no URL such as https://metabase.shop.example")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("is Metabase's bare address, without a user, ? or #: the key is CARAT_METABASE_API_KEY")
        return value.rstrip("/")

    @field_validator("metabase_api_key")
    @classmethod
    def _one_word(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip() if value else ""
        if not (key.isascii() and key.isprintable() and " " not in key):  # it goes into a header
            raise ValueError("is no API key: one word such as mb_…, as Metabase showed it once")
        return SecretStr(key) if key else None

    @field_validator("metabase_warehouse")
    @classmethod
    def _known_server(cls, value: SecretStr | None) -> SecretStr | None:
        if not value or not value.get_secret_value():
            return None
        if not value.get_secret_value().startswith("clickhouse://"):
            raise ValueError("must begin with clickhouse://")
        return cls._known_engine(value)

    @field_validator("shop_db")
    @classmethod
    def _known_shop(cls, value: SecretStr | None) -> SecretStr | None:
        url = value.get_secret_value() if value else ""
        if not url:
            return None
        if not url.startswith(("mysql://", "sqlite:///")):
            raise ValueError("must begin with mysql:// or sqlite:///")
        if url.startswith("mysql://"):
            try:
                is_whole = bool(urlsplit(url).hostname) and urlsplit(url).port != 0 and len(urlsplit(url).path) > 1
            except ValueError:
                is_whole = False
            if not is_whole:
                raise ValueError(
                    "is no URL such as mysql://user:password@host:3306/shop (in a password, @ is written %40, / %2F)"
                )
        return value

    @field_validator("own_hosts")
    @classmethod
    def _names_of_hosts(cls, value: str) -> str:
        for host in value.split(","):
            if host.strip() and not HOST.fullmatch(host.strip()):
                raise ValueError(f"{host.strip()!r} is no host such as shop.example; hosts stand between commas")
        return value

    @property
    def own_host_names(self) -> tuple[str, ...]:
        """The shop's own hosts, in lower case."""
        return tuple(host.strip().lower() for host in self.own_hosts.split(",") if host.strip())

    @model_validator(mode="after")
    def _key_for_hashed_addresses(self) -> Self:
        if self.ip == "hash" and len(self.ip_key.get_secret_value()) < _SHORTEST_KEY:
            raise ValueError(
                f"CARAT_IP=hash needs CARAT_IP_KEY, {_SHORTEST_KEY} characters or more (or CARAT_IP_KEY_FILE)"
            )
        return self

    @property
    def addresses(self) -> Addresses:
        """How the shoppers' addresses are kept."""
        if self.ip == "hash":
            return addresses.hashed(self.ip_key.get_secret_value())
        return addresses.truncated() if self.ip == "truncate" else addresses.kept()

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def has_server(self) -> bool:
        """Whether the warehouse is a ClickHouse server, not the embedded engine."""
        return self.warehouse.get_secret_value().startswith("clickhouse://")

    @property
    def has_mysql(self) -> bool:
        """Whether the shop's database is a MySQL, which the warehouse can be linked to."""
        return self.shop_db is not None and self.shop_db.get_secret_value().startswith("mysql://")

    @property
    def session_timeout_ms(self) -> int:
        return self.session_timeout // timedelta(milliseconds=1)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings, file_secret_settings


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; raises SettingsError that names each wrong variable, never its value."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(
            (f"{_PREFIX}{'_'.join(map(str, e['loc'])).upper()}: " if e["loc"] else "")
            + e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        )
        raise SettingsError(f"{wrong}. See `carat doctor --settings` for every setting") from None


def known_settings() -> list[dict[str, str]]:
    """`setting, default, meaning` of every setting, as a person would write them."""
    return [
        {"setting": f"{_PREFIX}{name.upper()}", "default": _written(field.default), "meaning": field.description or ""}
        for name, field in Settings.model_fields.items()
    ]


def _written(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, timedelta):
        return f"{default / timedelta(minutes=1):g}min"
    if isinstance(default, Path) and default.is_relative_to(_SHIPPED):
        return "shipped"
    return "" if default is None else str(default)
