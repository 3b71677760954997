"""The address of a database or service: parsed once, when settings are read, and never shown with its password."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import SecretStr

from app.core.suggestions import choose_from

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_ANY: tuple[str, ...] = ()
_NO_PASSWORD = SecretStr("")
_ESCAPES = "in a user or password, write @ as %40, / as %2F, : as %3A, ? as %3F, # as %23"


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
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> its values


_SCHEMES = {
    "chdb": _Scheme("chdb://./var/warehouse", is_path=True),
    "sqlite": _Scheme("sqlite:///var/lib/shop/shop.db", is_path=True),
    "clickhouse": _Scheme(
        "clickhouse://user:password@host:8123/",
        user="default",
        port=8123,
        secure_port=8443,
        options={"secure": _TRUE + _FALSE, "verify": _TRUE + _FALSE},
    ),
    "mysql": _Scheme(
        "mysql://user:password@host:3306/shop",
        user="root",
        port=3306,
        secure_port=3306,
        needs_database=True,
        options={"ssl-mode": ("disabled", "required", "verify_ca", "verify_identity"), "ssl-ca": _ANY},
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
            options=_parse_options(parts.query, scheme),
            _shown=parts._replace(netloc=f"{shown_login}{address}").geturl(),
        )
        return replace(url, port=port or (scheme.secure_port if url.is_secure else scheme.port))

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted."""
        if self.scheme == "mysql":
            return self.option("ssl-mode", "disabled") != "disabled"
        return self.scheme in {"https", "tls"} or self.option("secure", "false") in _TRUE

    @property
    def is_verified(self) -> bool:
        """Whether a ClickHouse server's certificate is verified."""
        return self.option("verify", "true") in _TRUE

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


def _parse_options(query: str, scheme: _Scheme) -> tuple[tuple[str, str], ...]:
    found = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in scheme.options:
            raise ValueError(f"unknown option {name}. {choose_from(name, scheme.options)}")
        if name in found:
            raise ValueError(f"option {name} is given twice")
        values = scheme.options[name]
        found[name] = value.lower().replace("-", "_") if values else value
        if values and found[name] not in values:
            known = values if name == "ssl-mode" else ("true", "false")
            raise ValueError(f"{name}={value} is not valid. {choose_from(value, known)}")
    return tuple(found.items())
