"""The address of a database or service: parsed once, when settings are read, and never shown with its password."""

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import SecretStr

from app.core.errors import SettingsError
from app.core.suggestions import choose_from

_BOOLEANS = ("true", "false")
_SPELLINGS = dict.fromkeys(("on", "yes", "1", "full"), "true") | dict.fromkeys(("off", "no", "0", "none"), "false")
_NO_PASSWORD = SecretStr("")
_ESCAPES = "in a user or password, write % as %25, @ as %40, / as %2F, : as %3A, ? as %3F, # as %23"
_LOGIN_OPTIONS = frozenset(
    {"user", "username", "usr", "login", "password", "passwd", "passwort", "pass", "pwd", "pw", "secret", "token"}
)
_SHOWABLE = re.compile(r"[\w.\-]{0,40}", re.ASCII)  # of a name or value that is refused; it might be half a password
_CLICKHOUSE_TLS_PORT = 8443


@dataclass(frozen=True)
class UrlOption:
    """One option after the question mark: `aliases` are what other programs call it, and are only suggested."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()  # empty: any, such as a path
    is_file: bool = False
    is_text: bool = False
    aliases: tuple[str, ...] = ()
    refused: str = ""  # why it is known and cannot be had


_CLICKHOUSE_OPTIONS = (
    UrlOption(
        "secure",
        "whether the connection is encrypted; without it, it is not",
        values=_BOOLEANS,
        aliases=("ssl", "tls", "https", "protocol", "ssl-mode", "sslmode", "encrypt"),
    ),
    UrlOption(
        "verify",
        "whether the server's certificate is verified; false only for tests",
        values=_BOOLEANS,
        aliases=("ssl_verify", "verify_ssl", "verify_cert", "verify_ca", "insecure", "check_hostname"),
    ),
    UrlOption(
        "ca",
        "file with the certificate of the server's authority, where it is not one of the system's",
        is_file=True,
        aliases=("ca_cert", "cafile", "ca_file", "ssl-ca", "ssl_ca", "sslrootcert", "cacert"),
    ),
    UrlOption(
        "cert",
        "file with the client's certificate",
        is_file=True,
        aliases=("client_cert", "certfile", "ssl-cert", "ssl_cert", "sslcert"),
    ),
    UrlOption(
        "key",
        "file with the key of the client's certificate",
        is_file=True,
        aliases=("client_cert_key", "keyfile", "ssl-key", "ssl_key", "sslkey"),
    ),
    UrlOption(
        "cluster",
        "name of the cluster in the servers' `remote_servers`, over whose shards the warehouse is spread",
        is_text=True,
        aliases=("cluster_name",),
    ),
    UrlOption(
        "hosts",
        "host:port of one replica of each shard, in the order of the shards, where they are not those that the cluster "
        "names first, at the port of the URL",
        is_text=True,
        aliases=("shards", "nodes", "replicas"),
    ),
)
_CLUSTER_NAME = re.compile(r"[\w.\-]+", re.ASCII)
_NO_CLIENT_CERTIFICATE = (
    "client certificates are not supported: the driver that reads the tables cannot present one. Let the user log in "
    "with a password over TLS, or put a proxy such as stunnel between"
)
_MYSQL_OPTIONS = (
    UrlOption(
        "ssl-mode",
        "disabled (the default), required (encrypted, not verified), verify_ca or verify_identity",
        values=("disabled", "required", "verify_ca", "verify_identity"),
        aliases=("secure", "ssl", "tls", "verify", "usessl", "tls-mode"),
    ),
    UrlOption(
        "ssl-ca",
        "file with the certificate of the server's authority",
        is_file=True,
        aliases=("ca", "ca_cert", "cafile", "ssl_ca", "sslca", "sslrootcert"),
    ),
    UrlOption("ssl-cert", "", aliases=("cert", "client_cert", "ssl_cert", "sslcert"), refused=_NO_CLIENT_CERTIFICATE),
    UrlOption("ssl-key", "", aliases=("key", "client_key", "ssl_key", "sslkey"), refused=_NO_CLIENT_CERTIFICATE),
)


@dataclass(frozen=True)
class _Scheme:
    """What the URLs of a scheme hold, and what they mean where they leave it out."""

    example: str
    is_path: bool = False
    user: str = ""
    port: int = 0
    secure_port: int = 0
    takes_login: bool = True
    needs_database: bool = False
    options: tuple[UrlOption, ...] = ()


_SCHEMES = {
    "chdb": _Scheme("chdb://./var/warehouse", is_path=True),
    "sqlite": _Scheme("sqlite:///var/lib/shop/shop.db", is_path=True),
    "clickhouse": _Scheme(
        "clickhouse://user:password@host:8123/",
        user="default",
        port=8123,
        secure_port=8443,
        options=_CLICKHOUSE_OPTIONS,
    ),
    "mysql": _Scheme(
        "mysql://user:password@host:3306/shop",
        user="root",
        port=3306,
        secure_port=3306,
        needs_database=True,
        options=_MYSQL_OPTIONS,
    ),
    "http": _Scheme("https://metabase.shop.example", port=80, takes_login=False),
    "https": _Scheme("https://metabase.shop.example", secure_port=443, takes_login=False),
    "tcp": _Scheme("tcp://scheduler:8786", takes_login=False),
    "tls": _Scheme("tls://scheduler:8786", takes_login=False),
}


@dataclass(frozen=True)
class ServiceUrl:
    """A parsed URL; `str()` and `repr()` hide the password. User and port are the scheme's defaults if left out."""

    scheme: str
    path: str = ""  # of a file or directory as written; of a server percent-decoded, without a slash at its end
    host: str = ""
    port: int = 0  # 0: left out, and the scheme has no default
    user: str = ""
    password: SecretStr = _NO_PASSWORD
    options: tuple[tuple[str, str], ...] = ()
    _shown: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, *schemes: str) -> Self:
        """The URL in a text, of one of these schemes; ValueError says what is wrong without showing a password."""
        text = text.strip()
        name, separator, rest = text.partition("://")
        name = name.lower()
        if not separator or name not in schemes:
            raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        scheme = _SCHEMES[name]
        if not scheme.is_path:
            return cls._parse_server(name, scheme, text)
        if not rest.strip("/") or (name == "sqlite" and not rest.startswith("/")):
            raise ValueError(f"{name}:// needs a path, such as {scheme.example}")
        return cls(name, path=rest, _shown=f"{name}://{rest}")

    @classmethod
    def _parse_server(cls, name: str, scheme: _Scheme, text: str) -> Self:
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
            user, password, path = (
                unquote(part or "", errors="strict") for part in (parts.username, parts.password, parts.path)
            )
        except ValueError:
            host = None
        # What follows an unescaped / ? or # of a password would be taken for the path or an option, and shown.
        if not host or port == 0 or "@" in f"{parts.path}{parts.query}{parts.fragment}" or _is_cut_by_urlsplit(text):
            hint = f" ({_ESCAPES})" if scheme.takes_login else ""
            raise ValueError(f"is not a valid URL such as {scheme.example}{hint}")
        if not scheme.takes_login and (parts.username or parts.password or parts.query or parts.fragment):
            raise ValueError(f"must be an address without user, password, ? and #, such as {scheme.example}")
        if parts.fragment:
            raise ValueError(f"must not contain # ({_ESCAPES})")
        if scheme.needs_database and not path.strip("/"):
            raise ValueError(f"is not a valid URL such as {scheme.example}: it names no database")
        login, _, address = parts.netloc.rpartition("@")
        shown_login = f"{login.partition(':')[0]}:***@" if password else f"{login}@" if login else ""
        url = cls(
            name,
            path=path.rstrip("/"),
            host=host,
            user=user or scheme.user,
            password=SecretStr(password),
            options=_parse_options(parts.query, name, scheme),
            _shown=parts._replace(netloc=f"{shown_login}{address}").geturl(),
        )
        if name == "clickhouse" and port == _CLICKHOUSE_TLS_PORT and not url.option("secure", ""):
            raise ValueError(f"port {port} is ClickHouse's port for TLS, and TLS is off: add ?secure=true")
        return replace(url, port=port or (scheme.secure_port if url.is_secure else scheme.port))

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted."""
        if self.scheme == "mysql":
            return self.option("ssl-mode", "disabled") != "disabled"
        return self.scheme in {"https", "tls"} or self.option("secure", "false") == "true"

    @property
    def is_verified(self) -> bool:
        """Whether the server's certificate is verified; meaningless without encryption."""
        if self.scheme == "mysql":
            return self.option("ssl-mode", "disabled").startswith("verify")
        return self.option("verify", "true") == "true"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    @property
    def cluster(self) -> str:
        """The name of the cluster whose shards hold the warehouse; empty for a single server."""
        return self.option("cluster", "")

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """Host and port of one replica of each shard, where the URL lists them."""
        listed = self.option("hosts", "")
        return tuple(_host_and_port(text, self.port) for text in listed.split(",")) if listed else ()

    def at(self, host: str, port: int) -> Self:
        """The same login and options at another server of the cluster."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return replace(self, host=host, port=port, _shown=f"{self.scheme}://{self.user}:***@{address}/")

    @property
    def security(self) -> str:
        """How the connection to a server is protected, in words."""
        if not self.is_secure:
            return "not encrypted"
        return "encrypted, certificate verified" if self.is_verified else "encrypted, certificate NOT verified"

    def file_option(self, name: str, *, variable: str) -> str | None:
        """The path of an option that names a file, None if it is left out; SettingsError if it cannot be read."""
        path = self.option(name, "")
        if not path:
            return None
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"{variable}: cannot read {name}={path}: {error.strerror}") from None
        return path

    @property
    def database(self) -> str:
        return self.path.lstrip("/")

    @property
    def local_path(self) -> Path:
        """The file or directory of an embedded database: `chdb:///var/x` is absolute, `chdb://./var/x` relative."""
        return Path(self.path).expanduser().resolve()

    def option(self, name: str, default: str) -> str:
        """The value of an option after the question mark."""
        return dict(self.options).get(name, default)

    def with_password(self) -> str:
        """The whole URL, for another process or library: it must not be shown."""
        if not self.host:
            return str(self)
        login = f"{quote(self.user, safe='')}:{quote(self.password.get_secret_value(), safe='')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        query = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.scheme}://{login}{host}{port}{quote(self.path)}{query}"

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"ServiceUrl({self._shown!r})"


def _is_cut_by_urlsplit(text: str) -> bool:
    """Whether urlsplit would drop characters of the text without a word."""
    return any(character in text for character in "\t\r\n")


def _parse_options(query: str, scheme_name: str, scheme: _Scheme) -> tuple[tuple[str, str], ...]:
    options = {option.name: option for option in scheme.options}
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        option = options.get(name)
        if option is None or option.refused:
            raise ValueError(_why_refused(name, scheme))
        if name in found:
            raise ValueError(f"option {name} is given twice")
        found[name] = _checked_value(option, value)
    if scheme_name == "clickhouse":
        _check_clickhouse_options(found)
    elif scheme_name == "mysql":
        _check_mysql_options(found)
    return tuple(found.items())


def _why_refused(name: str, scheme: _Scheme) -> str:
    """Why the option is refused. Its value is never shown: it may be a password."""
    plain = name.strip().lower()
    for option in scheme.options:
        if option.refused and plain in {option.name, *option.aliases}:
            return f"option {name}: {option.refused}"
    if plain in _LOGIN_OPTIONS:
        return f"option {plain} is not allowed: user and password stand before the host, as in {scheme.example}"
    known = [option.name for option in scheme.options if not option.refused]
    shown = f"unknown option {name}" if _SHOWABLE.fullmatch(name) else "unknown option"
    meant = next((option.name for option in scheme.options if plain in option.aliases), None)
    if meant:
        return f"{shown}. Did you mean {meant}? Choose from {', '.join(known)}"
    return f"{shown}. {choose_from(name if _SHOWABLE.fullmatch(name) else '', known)}"


def _checked_value(option: UrlOption, value: str) -> str:
    if option.is_text:
        if not value:
            raise ValueError(f"{option.name}= needs a value: {option.meaning}")
        return value
    if option.is_file:
        if not value:
            raise ValueError(f"{option.name}= needs a path: {option.meaning}")
        return value
    # A mode of MySQL may be written as its own programs do; true and false have one spelling each.
    plain = value if option.values == _BOOLEANS else value.lower().replace("-", "_")
    if plain not in option.values:
        shown = f"{option.name}={value}" if _SHOWABLE.fullmatch(value) else f"the value of {option.name}"
        meant = _SPELLINGS.get(value.lower(), value) if option.values == _BOOLEANS else value
        raise ValueError(f"{shown} is not valid. {choose_from(meant, option.values)}")
    return plain


def _check_clickhouse_options(options: Mapping[str, str]) -> None:
    """Refuse options that would have no effect, as somebody relies on them."""
    needing_tls = [name for name in ("verify", "ca", "cert", "key") if name in options]
    if needing_tls and options.get("secure") != "true":
        raise ValueError(f"{needing_tls[0]}= has no effect without TLS: add secure=true")
    if options.get("verify") == "false" and "ca" in options:
        raise ValueError("ca= has no effect with verify=false: remove one of the two")
    if ("cert" in options) != ("key" in options):
        raise ValueError("a client's certificate needs both cert= and key=")
    if "cluster" in options and not _CLUSTER_NAME.fullmatch(options["cluster"]):
        raise ValueError("cluster= is not the name of a cluster: use letters, digits, dots, - and _")
    if "hosts" in options:
        if "cluster" not in options:
            raise ValueError("hosts= has no effect without cluster=")
        addresses = [_host_and_port(text, 0) for text in options["hosts"].split(",")]
        if len(set(addresses)) < len(addresses):
            raise ValueError("hosts= lists a server twice: it needs one replica of each shard")


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """The two parts of `host:port`, or of `host`; ValueError without showing what is wrong: it may be a password."""
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or "@" in text or parts.path or parts.query or port == 0:
        raise ValueError("hosts= needs a list such as ch1:8123,ch2:8123")
    return host, port or default_port


def _check_mysql_options(options: Mapping[str, str]) -> None:
    mode = options.get("ssl-mode", "disabled")
    if "ssl-ca" in options and not mode.startswith("verify"):
        raise ValueError(f"ssl-ca= has no effect with ssl-mode={mode}: write ssl-mode=verify_identity (or verify_ca)")
    if mode.startswith("verify") and "ssl-ca" not in options:
        raise ValueError(f"ssl-mode={mode} needs ssl-ca=/path, the certificate file of the authority")


def url_options(scheme: str) -> tuple[UrlOption, ...]:
    """The options that URLs of a scheme may have."""
    return tuple(option for option in _SCHEMES[scheme].options if not option.refused)
