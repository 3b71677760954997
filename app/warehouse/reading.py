"""What may be run as a query of an embedded warehouse: it reads tables of the warehouse, and nothing else.

Two layers. The engine's `readonly = 1` refuses writes, changed settings and nearly every function that reads files or
the network. It does let through `file('/etc/passwd')` as a value, DESCRIBE of a file, INTO OUTFILE and KILL QUERY, so
those are refused by the text of the statement. The text is what the engine makes of it (`formatQuerySingleLine`): one
statement, without comments and heredocs, keywords in upper case, names quoted only where they must be.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import WarehouseError, WarehouseGoneError
from app.warehouse.client import Warehouse

_READ_STATEMENTS = ("SELECT", "WITH", "EXPLAIN", "SHOW", "DESCRIBE", "EXISTS")
_QUOTED = r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`"
_STRINGS = re.compile(_QUOTED, re.DOTALL)
_WRITING_CLAUSE = re.compile(r"\bINTO\b|\bPARALLEL WITH\b")  # SELECT … INTO OUTFILE writes a file
_FILE_CLAUSE = re.compile(r"\bINTO OUTFILE\b|\bFROM INFILE\b")
_CALLED = re.compile(r"(?<![\w.])(\w+)\s*\(|\bAPPLY\s*\(?\s*(\w+)")
_SYSTEM_TABLE = re.compile(r"(?<![\w.])system\.(\w*)")
_WORD = re.compile(rf"{_QUOTED}|[\w.+-]+|\S", re.DOTALL)
# Functions that a plain query needs, of those that can stand where a table does. Every other one of those is refused.
_TABLE_FUNCTIONS = frozenset(
    {
        "numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "generateseries", "generate_series", "generaterandom",
        "values", "sqlstandardvalues", "null", "view", "format", "fuzzquery", "fuzzjson", "mergetreeindex",
        "mergetreeprojection",
    }
)  # fmt: skip
# Functions with a value that read files, the network, or what other queries hold.
_IO_FUNCTION = re.compile(
    r"file|filesystem\w*|ai[A-Z]\w*|AI[A-Z]\w*|catboost\w*|evalMLMethod|getClientHTTPHeader|zookeeper\w*"
)
_SYSTEM_TABLES = frozenset(
    {
        "aggregate_function_combinators", "asynchronous_metrics", "build_options", "codecs", "collations", "columns",
        "contributors", "data_skipping_indices", "data_skipping_index_types", "data_type_families", "database_engines",
        "databases", "detached_parts", "detached_tables", "dictionaries", "disks", "documentation", "dropped_tables",
        "errors", "events", "formats", "functions", "keywords", "licenses", "merge_tree_settings", "merges", "metrics",
        "mutations", "numbers", "numbers_mt", "one", "parts", "parts_columns", "primes", "privileges", "processes",
        "projection_parts", "projections", "replicas", "settings", "settings_changes", "statements", "table_engines",
        "table_functions", "tables", "time_zones", "tokenizers", "unicode", "warnings", "zeros", "zeros_mt",
    }
)  # fmt: skip
# Settings that a statement may choose for itself: they change its result, and neither its limits nor what it can reach.
_OWN_SETTINGS = re.compile(
    r"(any_join_distinct_right_table_keys|aggregate_functions_null_for_empty|asterisk_include_\w+|cast_keep_nullable"
    r"|count_distinct_implementation|date_time_\w+|enable_analyzer|allow_experimental_analyzer|enable_positional_arguments"
    r"|except_default_mode|extremes|final|format_csv_delimiter|group_by_use_nulls|intersect_default_mode|join_algorithm"
    r"|join_default_strictness|join_use_nulls|limit|log_comment|max_block_size|max_bytes_before_external_\w+|offset"
    r"|optimize_\w+|output_format_(csv|json|pretty|tsv)_\w+|output_format_decimal_trailing_zeros"
    r"|output_format_parquet_compression_method|prefer_column_name_to_alias|session_timezone"
    r"|short_circuit_function_evaluation|transform_null_in|union_default_mode|use_skip_indexes)"
)


@dataclass(frozen=True)
class Statement:
    """A statement as it is run, with the parameters that the engine fills in."""

    sql: str
    parameters: Mapping[str, Any]
    normalized: str

    @property
    def is_reading(self) -> bool:
        """Whether it only reads: a query, and no clause of it writes."""
        text = _STRINGS.sub("''", self.normalized)
        return self.normalized.lstrip("(").startswith(_READ_STATEMENTS) and not _WRITING_CLAUSE.search(text)


def parse_statement(warehouse: Warehouse, sql: str, parameters: Mapping[str, Any] | None = None) -> Statement:
    """The statement with parameters of the form `%(name)s` filled in, so that what is checked is what is run.

    Raises WarehouseError if it is not one valid statement.
    """
    from clickhouse_connect.driver.binding import bind_query  # noqa: PLC0415  only who answers others needs it

    bound, of_engine = bind_query(sql, dict(parameters or {}))
    text = bound if isinstance(bound, str) else bound.decode()
    try:
        normalized = warehouse.scalar("SELECT formatQuerySingleLine({sql:String})", {"sql": text})
    except WarehouseGoneError:
        raise
    except WarehouseError as error:
        raise WarehouseError(str(error).partition(": In scope SELECT formatQuery")[0]) from None
    return Statement(text, dict(parameters or {}) if of_engine else {}, normalized)


def require_own_tables(warehouse: Warehouse, statement: Statement) -> None:
    """Raise WarehouseError if the statement reaches for files, the network or the engine's own secrets."""
    text = _STRINGS.sub(lambda found: found[0] if found[0].startswith("`") else "''", statement.normalized)
    if _FILE_CLAUSE.search(text):
        raise WarehouseError("INTO OUTFILE and FROM INFILE are not available: use --format and redirect the output")
    refused = _table_functions(warehouse) - _TABLE_FUNCTIONS
    for called in _CALLED.finditer(text.replace("`", "")):
        name = called[1] or called[2]
        if name.lower() in refused or _IO_FUNCTION.fullmatch(name):
            raise WarehouseError(
                f"{name}() is not available: a query reads the warehouse's own tables, no files and no other servers"
            )
    for table in _SYSTEM_TABLE.findall(text.replace("`", "")):
        if table not in _SYSTEM_TABLES:
            raise WarehouseError(f"system.{table} is not available: it is about the engine, not about the warehouse")
    if ":Identifier}" in text.replace(" ", ""):
        raise WarehouseError("a parameter of type Identifier is not available: write the name of the table")


def restrict(warehouse: Warehouse, statements: Sequence[Statement], limits: Mapping[str, int]) -> None:
    """Make the connection read-only with these limits, which the statements' own SETTINGS cannot lift.

    The engine refuses a statement that changes a setting of a read-only connection, but not one that states the value
    which the setting has. So harmless settings of the statement are set here before.
    """
    for name, limit in limits.items():
        warehouse.set(name, limit)
    for name, value in (setting for statement in statements for setting in _settings_of(statement.normalized)):
        cap = limits.get(name)
        is_allowed = _OWN_SETTINGS.fullmatch(name) or (cap and value.isdigit() and 0 < int(value) <= cap)
        if limits and not is_allowed:
            least = f"; at most {cap}" if cap else ""
            raise WarehouseError(f"SETTINGS {name} = {value} is not available here{least}: leave it out")
        warehouse.set(name, value)
    warehouse.set("readonly", 1)


def _settings_of(normalized: str) -> Iterator[tuple[str, str]]:
    """Name and value of each setting that the statement names."""
    words = _WORD.findall(normalized)
    for index, word in enumerate(words):
        if word != "SETTINGS":
            continue
        at = index + 1
        while at + 2 < len(words) and words[at + 1] == "=":
            yield words[at], _unquoted(words[at + 2])
            if at + 3 >= len(words) or words[at + 3] != ",":
                break
            at += 4


def _unquoted(literal: str) -> str:
    return re.sub(r"\\(.)", r"\1", literal[1:-1]) if literal.startswith("'") else literal


def _table_functions(warehouse: Warehouse) -> set[str]:
    return {name.lower() for name in warehouse.query("SELECT name FROM system.table_functions")["name"]}
