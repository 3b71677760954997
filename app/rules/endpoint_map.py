"""The endpoint map: a shop's own API described in data, read from TOML and checked with file, line and key.

The language is described in docs/endpoint-map.md.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, Strict, model_validator

from app.core.suggestions import choose_from
from app.rules.embedded_text import DECODERS
from app.rules.expressions import (
    Condition,
    Expression,
    ExpressionError,
    parse_condition,
    parse_expression,
    placeholders_of,
    roots_of,
)
from app.rules.field_path import Kind
from app.rules.toml_file import RuleModel, Tables, Text, TomlFile, digest_of, mistake, wrong_pattern

OTHER = "other"
EVENTS = (
    "catalog", "product_view", "favorite_add", "favorite_remove", "cart_add", "cart_remove", "cart_update", "cart_view",
    "checkout", "purchase", "order_cancel", "refund", OTHER,
)  # fmt: skip
# Events that are about products, one or several.
PRODUCT_EVENTS = ("product_view", "favorite_add", "favorite_remove", "cart_add", "cart_remove", "cart_update")

# Fields a map can place, and what each holds.
FIELDS: dict[str, Kind] = {
    "product_id": Kind.TEXT,
    "quantity": Kind.NUMBER,
    "price": Kind.NUMBER,
    "order_id": Kind.TEXT,
    "revenue": Kind.NUMBER,
    "amount": Kind.NUMBER,
    "currency": Kind.TEXT,
    "search_query": Kind.TEXT,
    "section": Kind.TEXTS,
    "material": Kind.TEXTS,
    "metal": Kind.TEXTS,
    "price_min": Kind.NUMBER,
    "price_max": Kind.NUMBER,
    "page": Kind.NUMBER,
    "per_page": Kind.NUMBER,
    "sort": Kind.TEXT,
    "results_total": Kind.NUMBER,
    "shown_products": Kind.TEXT,
    "order_products": Kind.TEXT,
    "order_quantities": Kind.NUMBER,
    "order_prices": Kind.NUMBER,
}
ORDER_ITEM_FIELDS = ("order_products", "order_quantities", "order_prices")
LIST_FIELDS = frozenset({"shown_products", *ORDER_ITEM_FIELDS})
MONEY_FIELDS = frozenset({"price", "revenue", "amount", "price_min", "price_max", "order_prices"})
# Of a call about several products these are lists, one value a product.
PARALLEL_FIELDS = ("product_id", "quantity", "price")

_RANGE_PARTS = {"price_min": 0, "price_max": 1}
_NAME = re.compile(r"[A-Za-z_]\w*")
_PLACEHOLDER = re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?P<rest>\.\.\.)?(?::(?P<pattern>(?:[^{}\\]|\\.|\{[\d,]+\})+))?\}")
_UNSHARED_SYNTAX = re.compile(r"\(\?(?!:)|\\[1-9]")  # look-around and references: the engine has none
_HEALTH_CHECKS = "/(?:health|healthz|livez|readyz|ready|ping|status|metrics)"


@dataclass(frozen=True)
class Lookup:
    """A table of `history` in which a value is looked up: by the column `key`, for the column `value`."""

    table: str
    key: str
    value: str


@dataclass(frozen=True)
class Reading:
    """One way to read a field: an expression, or what stands for it, and how its value is understood."""

    expression: Expression | None = None
    const: str | None = None
    minor_units: int | Expression | None = None
    decimal: str = ""
    split: str = ","
    match: str = ""  # a pattern, whose first group is the value
    range_separator: str = ""
    range_part: int = 0
    offset_page_size: int | None = None  # 0: the page size is the call's own
    decode: tuple[str, ...] = ()
    lookup: Lookup | None = None
    recall: tuple[str, ...] = ()  # names, recalled one after the other, before the lookup

    @property
    def takes_text(self) -> bool:
        """Whether the value is made from a text, whatever the field holds."""
        return bool(self.match or self.range_separator or self.lookup or self.recall)

    @property
    def is_plain(self) -> bool:
        """Whether the value is read column by column."""
        return self.expression is None or (self.expression.is_plain and not self.decode)


@dataclass(frozen=True)
class Memory:
    """What a call says that later calls of its session recall: values by key, or one value without keys."""

    name: str
    value: Expression
    key: Expression | None


@dataclass(frozen=True)
class CallPattern:
    """Which calls are meant: their methods (empty for any) and the pattern of their path."""

    methods: tuple[str, ...]
    path_pattern: str
    placeholders: tuple[str, ...] = ()  # by capture group, from 1


@dataclass(frozen=True)
class MappedCall:
    """An entry of the map: which calls are which event, and how each field is read, in the order of preference."""

    event: str
    label: str  # how reports name the entry
    pattern: CallPattern
    when: Condition | None = None
    fields: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)
    filters: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)
    memories: tuple[Memory, ...] = ()

    @property
    def readings(self) -> Iterator[Reading]:
        for readings in (*self.fields.values(), *self.filters.values()):
            yield from readings

    @property
    def roots(self) -> frozenset[str]:
        """The parts of the record that the entry reads."""
        expressions = [reading.expression for reading in self.readings]
        expressions += [r.minor_units for r in self.readings if isinstance(r.minor_units, Expression)]
        expressions += [part for memory in self.memories for part in (memory.value, memory.key)]
        read = frozenset().union(*(expression.roots for expression in expressions if expression))
        return read | roots_of(self.when) if self.when else read


@dataclass(frozen=True)
class EndpointMap:
    """The entries of a shop's map, in the order in which they are tried; `digest` changes when their meaning does."""

    calls: tuple[MappedCall, ...]
    ignored: tuple[CallPattern, ...]
    currency: str
    digest: str

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """The tables of `history` that fields are looked up in, each once."""
        return tuple(dict.fromkeys(r.lookup for call in self.calls for r in call.readings if r.lookup))

    @property
    def has_recall(self) -> bool:
        """Whether a call's fields depend on earlier calls of its session."""
        return any(reading.recall for call in self.calls for reading in call.readings)

    @property
    def reads_calls_alone(self) -> bool:
        """Whether every field is a function of its call and nothing else."""
        return not (self.has_recall or self.lookups)


def load_endpoint_map(path: Path) -> EndpointMap:
    """The map in a TOML file; SettingsError names file, line and key of the first mistake."""
    return _map(TomlFile.read(path, setting="CARAT_TRACKING"))


def parse_endpoint_map(text: str, *, source: str) -> EndpointMap:
    """The map in a TOML text."""
    return _map(TomlFile(text, source))


def _map(file: TomlFile) -> EndpointMap:
    content = file.parse(_MapFile)
    calls = tuple(
        _mapped_call(entry, number, content.decimal_separator) for number, entry in enumerate(content.call, start=1)
    )
    for number, call in enumerate(calls):
        _require_reachable(file, calls, number)
        _require_placeholders(file, content.call[number], number, call)
        for name, reading in _named_readings(call):
            known = {memory.name for other in calls for memory in other.memories}
            for asked in (one for one in reading.recall if one not in known):
                problem = f"recall: no entry remembers {asked!r}. {choose_from(asked, sorted(known))}"
                raise file.error(("call", number, *name), problem)
    ignored = tuple(
        _pattern(entry.method, entry.path) if entry.path else CallPattern(entry.method, "^") for entry in content.ignore
    )
    if content.ignore_defaults:
        ignored += _IGNORED_BY_DEFAULT
    meaning = (calls, ignored, content.currency)
    return EndpointMap(calls, ignored, content.currency, digest_of(meaning))


def _named_readings(call: MappedCall) -> Iterator[tuple[tuple[str, str], Reading]]:
    for kind, named in (("fields", call.fields), ("filters", call.filters)):
        for name, readings in named.items():
            for reading in readings:
                yield (kind, name), reading


def _require_reachable(file: TomlFile, calls: tuple[MappedCall, ...], number: int) -> None:
    call = calls[number]
    for first, earlier in enumerate(calls[:number], start=1):
        if earlier.when is None and earlier.pattern == call.pattern:
            problem = f"call number {first} takes every call of this method and path; give that one a `when`"
            raise file.error(("call", number, "path"), problem)


def _require_placeholders(file: TomlFile, entry: "_CallFile", number: int, call: MappedCall) -> None:
    """Expressions name placeholders of the entry's path."""
    read: list[tuple[tuple[str, ...], Expression | None]]
    read = [(("fields", name), reading.path) for name, many in entry.fields.items() for reading in many]
    read += [(("filters", name), reading.path) for name, many in entry.filters.items() for reading in many]
    for name, memory in entry.remember.items():
        read += [(("remember", name), memory.value), (("remember", name), memory.key)]
    named = [(keys, expression.text, expression.placeholders) for keys, expression in read if expression]
    named.append((("when",), file.content["call"][number].get("when", ""), placeholders_of(call.when)))
    known = call.pattern.placeholders
    for keys, text, names in named:
        for unknown in sorted(names.difference(known)):
            hint = f". {choose_from(unknown, known)}" if known else ""
            raise file.error(("call", number, *keys), f"{text!r}: the path has no placeholder {{{unknown}}}{hint}")


# ---- the file's shape --------------------------------------------------------------------------------------------


def _expression(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise mistake("must be an expression such as response.items[].id")
    try:
        expression = parse_expression(value)
        roots = expression.roots
    except ExpressionError as error:
        shown = value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}…"
        raise mistake(f"{shown!r} {error}") from None
    if unknown := sorted(roots - set(_KNOWN_ROOTS)):
        raise mistake(f"{value!r}: {unknown[0]!r} is not part of a call. {choose_from(unknown[0], _KNOWN_ROOTS)}")
    if value.strip() in _WHOLE:
        raise mistake(f"{value!r} is a whole document; name a value in it, such as {value.strip()}.id")
    return expression


_LONGEST_SHOWN = 100
_KNOWN_ROOTS = ("request", "response", "path", "method", "endpoint", "status")
_WHOLE = frozenset({"request", "path"})
ExpressionOf = Annotated[Any, BeforeValidator(_expression)]


def _condition(value: Any) -> Any:
    _expression(value)
    return parse_condition(value)


def _methods(value: Any) -> Any:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise mistake('must be a method such as "GET", a list of them, or "*"')
    if "*" in values and len(values) > 1:
        raise mistake('"*" stands for every method; leave the others out')
    for one in values:
        if one != "*" and not re.fullmatch(r"[A-Za-z-]+", one):
            raise mistake(f"{one!r} is not a method such as GET or POST")
    return () if values == ["*"] else tuple(sorted({one.upper() for one in values}))


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("/"):
        raise mistake("must be text that begins with /, such as /api/products/{product_id}")
    if "?" in _PLACEHOLDER.sub("", value):
        raise mistake("must not hold a query string; test request.query in `when`")
    seen = set()
    for match in _PLACEHOLDER.finditer(value):
        if match["name"] in seen:
            raise mistake(f"{{{match['name']}}} stands twice; give each placeholder a name of its own")
        seen.add(match["name"])
        if pattern := match["pattern"]:
            if syntax := _UNSHARED_SYNTAX.search(pattern):
                raise mistake(f"{{{match['name']}}}: {syntax[0]!r} cannot be used in a pattern here")
            if problem := wrong_pattern(pattern):
                raise mistake(f"{{{match['name']}}} is not a valid pattern: {problem}")
        if match["rest"] and not match["pattern"] and match.end() != len(value):
            raise mistake(f"{{{match['name']}...}} takes the rest of the path, so it must be last")
    if stray := re.search(r"[{}]", _PLACEHOLDER.sub("", value)):
        raise mistake(f"stray {stray[0]!r}; a placeholder is {{name}}, {{name:pattern}} or {{name...}}")
    return value


Methods = Annotated[tuple[str, ...], Strict(False), BeforeValidator(_methods)]
Path_ = Annotated[str, BeforeValidator(_path)]


class _LookupFile(RuleModel):
    table: Text = Field(description="the table of history to look the value up in")
    key: Text = Field(description="the table's column that holds the value")
    value: Text = Field(description="the table's column to take instead")


def _decoders(value: Any) -> Any:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        raise mistake(f"must be one of {', '.join(DECODERS)}, or a list of them")
    for one in values:
        if one not in DECODERS:
            raise mistake(f"{one!r} is not valid. {choose_from(one, DECODERS)}")
    return tuple(values)


def _minor_units(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise mistake("must be the number of decimals, such as 2, or an expression of it")
    if isinstance(value, str):
        return _expression(value)
    if not 0 <= value <= _MOST_DECIMALS:
        raise mistake(f"must be from 0 to {_MOST_DECIMALS}")
    return value


_MOST_DECIMALS = 8


def _split(value: Any) -> Any:
    if value is False:
        return ""
    if not isinstance(value, str) or not value:
        raise mistake('must be what separates the values, such as "|", or false')
    return value


def _offset(value: Any) -> Any:
    if value is True:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise mistake("must be true, or the page size where the call has none, such as 20")
    return value


def _const(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise mistake("must be text or a number")
    return str(value)


def _match(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise mistake('must be a pattern, such as "search: *(.+)"')
    if syntax := _UNSHARED_SYNTAX.search(value):
        raise mistake(f"{syntax[0]!r} cannot be used in a pattern here")
    if problem := wrong_pattern(value):
        raise mistake(f"is not a valid pattern: {problem}")
    return value if re.search(r"(?<!\\)\((?!\?)", value) else f"({value})"


def _names(value: Any) -> Any:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(one, str) and one for one in values):
        raise mistake("must be a name that an entry remembers, or a list of them")
    return tuple(values)


class _ReadingFile(RuleModel):
    """A table that says where a field's value is and how to read it."""

    path: ExpressionOf | None = None
    const: Annotated[str | None, BeforeValidator(_const)] = None
    minor_units: Annotated[Any, BeforeValidator(_minor_units)] = None
    decimal: Literal[",", "."] | None = None
    split: Annotated[str, BeforeValidator(_split)] = ","
    match: Annotated[str, BeforeValidator(_match)] = ""
    range: Text | None = None
    offset: Annotated[int | None, BeforeValidator(_offset)] = None
    decode: Annotated[tuple[str, ...], Strict(False), BeforeValidator(_decoders)] = ()
    lookup: _LookupFile | None = None
    recall: Annotated[tuple[str, ...], Strict(False), BeforeValidator(_names)] = ()

    @model_validator(mode="after")
    def _require_source(self) -> Self:
        if self.path is not None and self.const is not None:
            raise mistake("path and const are two values; keep one, or make a list of two", "const")
        if self.path is None and self.const is None and not self.recall:
            raise mistake("missing: the expression of the value, or const or recall", "path")
        if self.path is None and (self.decode or (self.lookup and not self.recall)):
            raise mistake("missing: decode and lookup need the expression of a value", "path")
        return self


def _readings(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str | dict) for one in values):
        raise mistake("must be an expression such as response.id, a table such as { path = … }, or a list of these")
    return [{"path": one} if isinstance(one, str) else one for one in values]


Readings = Annotated[tuple[_ReadingFile, ...], Strict(False), BeforeValidator(_readings)]


class _MemoryFile(RuleModel):
    value: ExpressionOf = Field(description="the expression of what is remembered")
    key: ExpressionOf | None = None


def _fields(content: Any) -> Any:
    if isinstance(content, dict):
        for name, value in content.items():
            if name not in FIELDS:
                raise mistake(f"unknown field. {choose_from(name, FIELDS)}", name)
            for one in value if isinstance(value, list) else [value]:
                _require_fitting(name, one)
    return content


def _require_fitting(name: str, reading: Any) -> None:
    """Ways to read a value belong to the fields that have such values."""
    if not isinstance(reading, dict):
        return
    fitting = {
        "minor_units": (MONEY_FIELDS, "money"),
        "range": (frozenset(_RANGE_PARTS), "price_min and price_max"),
        "offset": (frozenset({"page"}), "page"),
        "decimal": (frozenset(f for f, kind in FIELDS.items() if kind is Kind.NUMBER), "numbers"),
        "split": (
            frozenset(f for f, kind in FIELDS.items() if kind is Kind.TEXTS),
            "section, material, metal and filters",
        ),
    }
    for key, (fields, what) in fitting.items():
        if key in reading and name not in fields and not (key == "split" and name not in FIELDS):
            raise mistake(f"{key} is for {what}", name, key)


def _named(content: Any) -> Any:
    if isinstance(content, dict):
        for name in content:
            if not _NAME.fullmatch(name):
                raise mistake("must be a name of letters, digits and _", name)
            if name in FIELDS:
                raise mistake(f"{name} is a field: write fields.{name}", name)
    return content


def _filters(content: Any) -> Any:
    for name, value in _named(content).items() if isinstance(content, dict) else ():
        for one in value if isinstance(value, list) else [value]:
            _require_fitting(name, one)
    return content


class _CallFile(RuleModel):
    event: Literal[EVENTS] = Field(description="what the calls are, such as product_view")  # type: ignore[valid-type]
    method: Methods = Field(description="the HTTP method")
    path: Path_ = Field(description="the path, such as /api/products/{product_id}")
    when: Annotated[Any, BeforeValidator(_condition)] = None
    fields: Annotated[dict[str, Readings], BeforeValidator(_fields)] = Field(default_factory=dict)
    filters: Annotated[dict[str, Readings], BeforeValidator(_filters)] = Field(default_factory=dict)
    remember: Annotated[dict[str, _MemoryFile], BeforeValidator(_named)] = Field(default_factory=dict)


class _IgnoreFile(RuleModel):
    method: Methods = ()
    path: Path_ | None = None

    @model_validator(mode="after")
    def _require_some(self) -> Self:
        if not self.method and self.path is None:
            raise mistake("names neither a method nor a path, so every call would be ignored")
        return self


def _currency(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"(?:[A-Za-z]{3})?", value):
        raise mistake("must be a code of three letters, such as EUR")
    return value.upper()


class _MapFile(RuleModel):
    call: Annotated[Tables[_CallFile], Field(min_length=1, description="the [[call]] tables")]
    ignore: Tables[_IgnoreFile] = ()
    ignore_defaults: bool = True
    currency: Annotated[str, BeforeValidator(_currency)] = ""
    decimal_separator: Literal["", ",", "."] = ""


# ---- from the file to what is used -------------------------------------------------------------------------------


def _mapped_call(entry: _CallFile, number: int, decimal: str) -> MappedCall:
    pattern = _pattern(entry.method, entry.path)
    fields = {name: tuple(_reading(one, name, decimal) for one in many) for name, many in entry.fields.items()}
    for placeholder in pattern.placeholders:
        if placeholder in FIELDS:
            reading = Reading(parse_expression(f"path.{placeholder}"), decimal=decimal)
            fields[placeholder] = (*fields.get(placeholder, ()), reading)
    return MappedCall(
        event=str(entry.event),
        label=f"{number}: {'|'.join(entry.method) or '*'} {entry.path}",
        pattern=pattern,
        when=entry.when,
        fields=fields,
        filters={name: tuple(_reading(one, name, decimal) for one in many) for name, many in entry.filters.items()},
        memories=tuple(Memory(name, one.value, one.key) for name, one in entry.remember.items()),
    )


def _reading(file: _ReadingFile, name: str, decimal: str) -> Reading:
    lookup = Lookup(file.lookup.table, file.lookup.key, file.lookup.value) if file.lookup else None
    return Reading(
        expression=file.path,
        const=file.const,
        minor_units=file.minor_units,
        decimal=file.decimal or decimal,
        split=file.split,
        match=file.match,
        range_separator=file.range or "",
        range_part=_RANGE_PARTS.get(name, 0),
        offset_page_size=file.offset,
        decode=file.decode,
        lookup=lookup,
        recall=file.recall,
    )


def _pattern(methods: tuple[str, ...], path: str) -> CallPattern:
    """A pattern for normal paths, in the syntax that Polars' and ClickHouse's regular expressions share."""
    parts: list[str] = []
    names: list[str] = []
    at = 0
    path = re.sub("/{2,}", "/", path)
    path = path if path == "/" else path.removesuffix("/")
    for match in _PLACEHOLDER.finditer(path):
        parts.append(re.escape(path[at : match.start()]))
        inner = match["pattern"] or (".+" if match["rest"] else "[^/]+")
        parts.append(f"({_without_groups(inner)})")
        names.append(match["name"])
        at = match.end()
    parts.append(re.escape(path[at:]))
    return CallPattern(methods, f"(?i)^{''.join(parts).removesuffix('/')}/?$", tuple(names))


def _without_groups(pattern: str) -> str:
    """The pattern with groups that capture nothing, so that a placeholder is one group."""
    return re.sub(r"(\\.|\[(?:\\.|[^\]\\])+\])|\((?!\?)", lambda m: m[1] or "(?:", pattern)


_IGNORED_BY_DEFAULT = (
    CallPattern(("HEAD", "OPTIONS"), "^"),
    CallPattern((), f"(?i)^{_HEALTH_CHECKS}/?$"),
)
