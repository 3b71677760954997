"""Rules as data: a TOML file, checked by a pydantic model, with every mistake named as `FILE:LINE: KEY: problem`.

A rule file's shape is a `RuleModel`; `TomlFile.read(path, setting=...).parse(Model)` returns it. Checks that span
several keys raise `mistake(problem, *keys)`, where the keys lead from the model to the value that is wrong. Checks that
need more than the model, such as a second file, raise `TomlFile.error(key_path, problem)`.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import polars as pl
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from app.core.errors import SettingsError
from app.core.suggestions import choose_from
from app.rules.toml_lines import KeyPath, find_lines

_SHIPPED = Path(__file__).parent.resolve()
_Model = TypeVar("_Model")
_Table = TypeVar("_Table")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
# What pydantic finds, as a person who edits the file would say it; other texts are pydantic's own.
_PROBLEMS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be {le:g} or less",
    "list_type": "must be a list",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


def mistake(problem: str, *keys: str | int) -> PydanticCustomError:
    """An error for a validator to raise: the problem of the value to which these keys lead from the validated one."""
    return PydanticCustomError("mistake", "{problem}", {"problem": problem, "keys": keys})


class RuleModel(BaseModel):
    """A table of a rule file: no other keys than its fields, and no value of another type than the field's.

    A field's description says in the error for a missing key what the key is for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _require_known_keys(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        for key in content:
            if key not in fields:
                raise mistake(f"unknown key. {choose_from(key, fields)}", key)
        for key, field in fields.items():
            if field.is_required() and key not in content:
                raise mistake(f"missing{f': {field.description}' if field.description else ''}", key)
        return content


def wrong_pattern(pattern: str) -> str:
    """What Polars finds wrong with a regular expression, in one line; empty if nothing is."""
    try:
        pl.select(pl.lit("x").str.contains(pattern))
    except pl.exceptions.PolarsError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "invalid")
    return ""


def valid_patterns(patterns: Sequence[str]) -> list[str]:
    """Those that Polars can read, checked in one go."""
    frame = pl.DataFrame({"pattern": patterns}, schema={"pattern": pl.String()})
    return frame.filter(pl.lit("x").str.contains(pl.col("pattern"), strict=False).is_not_null())["pattern"].to_list()


def _require_valid_pattern(pattern: str, info: ValidationInfo) -> str:
    # Compiling the shipped patterns at each start would cost more than all else about them; a test does it.
    is_checked = bool(info.context and info.context["is_shipped"])
    if not is_checked and (problem := wrong_pattern(pattern)):
        raise mistake(f"is not a valid regular expression: {problem}")
    return pattern


def _require_content(text: str) -> str:
    if not text.strip():
        raise mistake("must not be empty")
    return text


def _require_distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise mistake(f"names {value} twice", number)
    return values


def _require_texts(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise mistake('must be a list of texts, such as ["a", "b"]')
    return value


def _list_of_texts(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise mistake("must be text or a list of texts")
    return [value] if isinstance(value, str) else value


def _require_tables(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, list | tuple):
        raise mistake(f"must be [[{info.field_name}]] tables")
    return value


Text = Annotated[str, AfterValidator(_require_content)]
LowerText = Annotated[Text, AfterValidator(str.lower)]
Texts = Annotated[tuple[Text, ...], Strict(False), BeforeValidator(_require_texts)]  # a TOML list becomes a tuple
LowerTexts = Annotated[tuple[LowerText, ...], Strict(False), BeforeValidator(_require_texts)]
DistinctTexts = Annotated[Texts, AfterValidator(_require_distinct)]
LowerTextOrTexts = Annotated[  # texts that may be empty, or one such text
    tuple[Annotated[str, AfterValidator(str.lower)], ...],
    Strict(False),
    BeforeValidator(_list_of_texts),
]
Pattern = Annotated[Text, AfterValidator(_require_valid_pattern)]  # a regular expression of Polars
Tables = Annotated[tuple[_Table, ...], Strict(False), BeforeValidator(_require_tables)]  # [[name]] tables


class TomlFile:
    """The content of a TOML file, and the line of each of its keys."""

    def __init__(self, text: str, source: str, *, is_shipped: bool = False) -> None:
        self.source = source
        self._is_shipped = is_shipped
        self._text = text
        try:
            self.content: dict[str, Any] = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._syntax_error(error) from None

    @classmethod
    def read(cls, path: Path, *, setting: str) -> Self:
        """The file at this path; SettingsError names the setting if it cannot be read."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}") from None
        try:
            return cls(data.decode("utf-8-sig"), str(path), is_shipped=path.resolve().is_relative_to(_SHIPPED))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise SettingsError(f"{setting}: cannot read {path}: line {line} is not UTF-8 text") from None

    def parse(self, model: type[_Model]) -> _Model:
        """The content as this model or other pydantic type; SettingsError names line and key of the first mistake."""
        try:
            return TypeAdapter(model).validate_python(self.content, context={"is_shipped": self._is_shipped})
        except ValidationError as error:
            found = {self._path(details): _problem(details) for details in error.errors()}
            outer = {path[:end] for path in found for end in range(len(path))}  # a list lacks its own wrong items
            lines = find_lines(self._text)
            first = min(found.keys() - outer, key=lambda path: lines.of(path) or 0)
            raise self.error(first, found[first]) from None

    def error(self, path: Sequence[str | int], problem: str) -> SettingsError:
        """The problem of the value at this path, as `FILE:LINE: KEY: problem`; of a missing key, its table's line."""
        line = find_lines(self._text).of(tuple(path))
        key = ".".join(_written(key) for key in path if isinstance(key, str))
        where = f"{self.source}:{line}" if line else self.source
        return SettingsError(": ".join(filter(None, (where, key, problem))))

    def _path(self, details: ErrorDetails) -> KeyPath:
        """The keys and list indices of an error that the file has: pydantic adds the tags of unions and `[key]`."""
        path: list[str | int] = []
        at: Any = self.content
        for key in details["loc"]:
            is_in_list = isinstance(at, list) and isinstance(key, int) and key < len(at)
            if is_in_list or (isinstance(at, Mapping) and key in at):
                at = at[key]
                path.append(key)
        return (*path, *details.get("ctx", {}).get("keys", ()))

    def _syntax_error(self, error: Exception) -> SettingsError:
        if isinstance(error, RecursionError):
            return SettingsError(f"{self.source}: lists or tables are nested too deeply")
        match = _POSITION.search(str(error))
        line = (match and match["line"]) or self._text.count("\n") + 1
        where = f"{self.source}:{line}" if match else self.source
        column = f" (column {match['column']})" if match and match["column"] else ""
        return SettingsError(f"{where}: not valid TOML: {_POSITION.sub('', str(error))}{column}")


def digest_of(meaning: object) -> str:
    """A short hash of what rules mean; the ledger stores it, so equal rules must keep an equal `repr`."""
    return hashlib.sha256(repr(meaning).encode()).hexdigest()[:16]


def _problem(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        return _not_among(details["input"], re.findall(r"'([^']*)'", context["expected"]))
    if details["type"] == "model_type":
        names = [key for key in details["loc"] if isinstance(key, str)]
        opening, closing = ("[[", "]]") if isinstance(details["loc"][-1], int) else "[]"
        return f"must be a table such as {opening}{'.'.join(names)}{closing}"
    if details["type"] == "value_error":
        return details["msg"].removeprefix("Value error, ")
    template = _PROBLEMS.get(details["type"])
    return template.format(**context) if template else details["msg"]


def _not_among(value: Any, known: Iterable[str]) -> str:
    return f"{value!r} is not valid. {choose_from(str(value), known)}"


def _written(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
