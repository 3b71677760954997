"""The connection to the embedded engine: what `Warehouse` asks of a clickhouse-connect client, straight from chDB.

clickhouse-connect reaches this engine, too, but importing it and its handshake take as much CPU as a small shop's hour
has to spend, and it reads each statement character by character in Python.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlencode

import chdb

from app.core.sql import quote

_ESCAPED = str.maketrans({"\\": "\\\\", "'": "\\'", "`": "\\`", "\t": "\\\t", "\n": "\\\n"})
_BOUND_BEFORE_SENDING = "%("  # a parameter as %(name)s is written into the statement


class EngineError(Exception):
    """The embedded engine refused a statement, or could not be opened."""


class EmbeddedClient:
    """One connection to the engine, for one thread at a time. Of several, all have the same path."""

    def __init__(self, path: str, options: Mapping[str, str] | None = None) -> None:
        where = os.path.realpath(path)  # the engine takes two spellings of a path for two engines
        try:
            self._connection = chdb.connect(  # type: ignore[no-untyped-call]
                f"{where}?{urlencode(options)}" if options else where
            )
        except RuntimeError as error:
            raise EngineError(f"cannot open the engine at {where}: {_message(error)}") from error

    @property
    def server_version(self) -> str:
        return self.command("SELECT version()").strip()

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> str:
        return self.raw_query(sql, parameters, fmt="TabSeparated").decode()

    def raw_query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, fmt: str) -> bytes:
        """The result of a query in this format, unless it names one itself."""
        if parameters and _BOUND_BEFORE_SENDING in sql:
            sql, parameters = _bound(sql, parameters)
        texts = {name: parameter_text(value) for name, value in (parameters or {}).items()}
        try:
            return self._connection.query(sql, fmt, params=texts).bytes() or b""
        except Exception as error:
            raise EngineError(_message(error)) from error

    def raw_insert(
        self,
        table: str,
        *,
        column_names: Sequence[str],
        insert_block: bytes,
        fmt: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Insert data in this format, by way of a file: a statement cannot carry it."""
        columns = ", ".join(f"`{name}`" for name in column_names)
        values = ", ".join(f"{name} = {quote(str(value))}" for name, value in (settings or {}).items())
        clause = f" SETTINGS {values}" if values else ""
        with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
            file.write(insert_block)
            file.flush()
            self.command(f"INSERT INTO {table} ({columns}) FROM INFILE {quote(file.name)}{clause} FORMAT {fmt}")

    def set_client_setting(self, name: str, value: Any) -> None:
        self.command(f"SET {name} = {quote(str(value))}")

    def close(self) -> None:
        with suppress(RuntimeError):
            self._connection.close()


def parameter_text(value: Any, *, is_inner: bool = False) -> str:
    """A query parameter as the engine reads it: text as it is, and quoted within a list."""
    if value is None:
        return "NULL" if is_inner else "\\N"
    if isinstance(value, list | tuple):
        inner = ", ".join(parameter_text(item, is_inner=True) for item in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, datetime):
        text = f"{value.astimezone(UTC) if value.tzinfo else value:%Y-%m-%d %H:%M:%S}"
    elif isinstance(value, date):
        text = value.isoformat()
    elif isinstance(value, str):
        text = value.translate(_ESCAPED)
    else:
        return str(value)
    return f"'{text}'" if is_inner else text


def _bound(sql: str, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    from clickhouse_connect.driver.binding import bind_query  # noqa: PLC0415

    text, of_engine = bind_query(sql, dict(parameters))
    return text if isinstance(text, str) else text.decode(), dict(parameters) if of_engine else {}


def _message(error: Exception) -> str:
    text = str(error)
    return text[max(text.find("Code: "), 0) :].strip()
