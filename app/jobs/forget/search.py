"""Finds where the warehouse names a person: by the meaning of columns, and by keys inside JSON and URLs.

User ids can be short numbers such as 17. So they are matched in columns that hold users, and after a key that means a
user: `"user_id": 17` in JSON, `user_id=17` in a URL. Ids that are too long to occur by chance are matched anywhere.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from app.contracts import FORGOTTEN
from app.warehouse import Warehouse

# The keys of ids in JSON and URLs.
_USER_NAMES = ("user_id", "userId", "customer_id", "customerId", "person_id")
_VISITOR_NAMES = ("visitor_id", "visitorId")
_TOKEN_NAMES = ("session_token", "sessionToken")
_OF_USERS = frozenset({"user_id", "customer_id", "person_id"})
_OF_DEVICES = frozenset({"visitor_id", "session_token"})
_LONG, _LONG_IF_MIXED = 12, 8
_NEEDLES = 200  # the engine looks for 255 at a time
_TEXT = re.compile(r"^(?:LowCardinality\()?(?:Nullable\()?String\)*$|^Array\(String\)$|^Nullable\(String\)$")
_UNLOGGED = "SETTINGS log_queries = 0"  # a server keeps the text of statements


@dataclass(frozen=True)
class Identifiers:
    """A person's ids: the user, and the visitor ids and session tokens that nobody else has used."""

    user: str
    visitors: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (self.user, *self.visitors, *self.tokens)

    @property
    def distinctive(self) -> list[str]:
        """The ids that are too long to occur by chance."""
        return [value for value in self.all if is_distinctive(value)]

    @property
    def pattern(self) -> str:
        """A regular expression, for RE2 and Python, that matches the ids after a key, in JSON or in a URL."""
        kinds = ((_USER_NAMES, (self.user,)), (_VISITOR_NAMES, self.visitors), (_TOKEN_NAMES, self.tokens))
        return "|".join(_pattern(names, values) for names, values in kinds if values)


@dataclass(frozen=True)
class Occurrence:
    """A column in which rows name the person."""

    table: str
    column: str
    rows: int


def is_distinctive(value: str) -> bool:
    """Whether an id is too long to occur by chance: 12 characters, or 8 of which some are letters and some are not."""
    is_mixed = not value.isdigit() and not value.isalpha()
    return len(value) >= _LONG or (len(value) >= _LONG_IF_MIXED and is_mixed)


def find_occurrences(
    warehouse: Warehouse, ids: Identifiers, tables: Sequence[str], *, people: Mapping[str, Collection[str]]
) -> list[Occurrence]:
    """Where rows of these tables name the person; `people` maps a table to the columns of its that hold users."""
    occurrences = []
    for table in tables:
        conditions = {
            column: _condition(table, column, type_, ids, people) for column, type_ in _columns(warehouse, table)
        }
        wanted = {column: sql for column, sql in conditions.items() if sql}
        if not wanted:
            continue
        counted = ", ".join(f"countIf({sql}) AS c{number}" for number, sql in enumerate(wanted.values()))
        found = warehouse.query(f"SELECT {counted} FROM {table} {_UNLOGGED}", _parameters(ids))
        for column, rows in zip(wanted, found.row(0), strict=True):
            if rows:
                occurrences.append(Occurrence(table, column, rows))
    return occurrences


def rows_that_name(
    warehouse: Warehouse, ids: Identifiers, table: str, columns: Iterable[str], key: str
) -> list[dict[str, Any]]:
    """The `key` of the rows in which one of the text columns names the person."""
    condition = " OR ".join(_in_text(f"toString(`{column}`)", ids) for column in columns)
    found = warehouse.query(f"SELECT {key} FROM {table} WHERE {condition} {_UNLOGGED}", _parameters(ids))
    return found.to_dicts()


def redacted(text: str, ids: Identifiers, *, same_length: bool = False) -> str:
    """The text without the person's ids; JSON stays valid. With `same_length` every other byte keeps its place."""

    def instead(value: str) -> str:
        filler = "0" if value.isdigit() else "forgotten"
        size = len(value.encode())
        return filler[:size].ljust(size) if same_length else filler

    for value in ids.distinctive:
        text = text.replace(value, instead(value))

    def without_id(match: re.Match[str]) -> str:
        name, separator, rest = re.split(r"([:=])", match[0], maxsplit=1)
        for value in sorted(ids.all, key=len, reverse=True):
            if value in rest:
                return name + separator + rest.replace(value, instead(value), 1)
        return match[0]

    return re.sub(ids.pattern, without_id, text)


def data_tables(warehouse: Warehouse) -> list[str]:
    """The tables of all databases that hold data; not the list of forgotten people, nor journals of erasures."""
    found = warehouse.query(
        "SELECT database || '.' || name AS full_name FROM system.tables "
        "WHERE database IN ('pd', 'dwh', 'history', 'etl') AND engine LIKE '%MergeTree' "
        "AND NOT match(name, '^(writer_lease|forgetting)_') ORDER BY full_name",
        schema={"full_name": pl.String()},
    )
    return [name for name in found["full_name"] if name != FORGOTTEN.full_name]


def _columns(warehouse: Warehouse, table: str) -> list[tuple[str, str]]:
    return warehouse.query(
        "SELECT name, type FROM system.columns WHERE database || '.' || table = {table:String} "
        "AND default_kind != 'ALIAS' ORDER BY position",
        {"table": table},
    ).rows()


def _condition(table: str, column: str, type_: str, ids: Identifiers, people: Mapping[str, Collection[str]]) -> str:
    quoted = f"`{column}`"
    if column in _OF_USERS or column in people.get(table, ()):
        return f"ifNull(toString({quoted}), '') = {{user:String}}"
    if not _TEXT.match(type_):
        return ""
    if type_.startswith("Array("):
        exact = f"hasAny({quoted}, {{distinctive:Array(String)}})"
        return f"{exact} OR arrayExists(item -> {_in_text('item', ids)}, {quoted})"
    text = f"ifNull(toString({quoted}), '')"
    exact = f"{text} IN {{devices:Array(String)}} OR " if column in _OF_DEVICES else ""
    return f"{exact}{_in_text(text, ids)}"


def _in_text(text: str, ids: Identifiers) -> str:
    distinctive = range(0, len(ids.distinctive), _NEEDLES)
    anywhere = [f"multiSearchAny({text}, {{needles{start}:Array(String)}})" for start in distinctive]
    some = [f"multiSearchAny({text}, {{some{start}:Array(String)}})" for start in range(0, len(ids.all), _NEEDLES)]
    named = f"({' OR '.join(some)}) AND match({text}, {{pattern:String}})"  # the first test is fast and usually fails
    return " OR ".join((*anywhere, f"({named})"))


def _parameters(ids: Identifiers) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "user": ids.user,
        "devices": [*ids.visitors, *ids.tokens],
        "distinctive": ids.distinctive,
        "pattern": ids.pattern,
    }
    for start in range(0, len(ids.distinctive), _NEEDLES):
        parameters[f"needles{start}"] = ids.distinctive[start : start + _NEEDLES]
    for start in range(0, len(ids.all), _NEEDLES):
        parameters[f"some{start}"] = list(ids.all[start : start + _NEEDLES])
    return parameters


def _pattern(names: Sequence[str], ids: Sequence[str]) -> str:
    name, value = "|".join(names), "|".join(_escaped(one) for one in ids)
    return (
        rf'\\?"(?:{name})\\?"\s*:\s*(?:\\?"(?:{value})\\?"|(?:{value})\s*(?:[,}}\]]|$))'
        rf"|[?&](?:{name})=(?:{value})(?:[&#\s\"]|$)"
    )


def _escaped(value: str) -> str:
    """The value escaped for both RE2 and Python."""
    return re.sub(r"([^A-Za-z0-9_\x80-\U0010ffff])", r"\\\1", value)
