"""Rules for a card's SQL that no engine enforces, checked in its text.

Strings and comments are blanked first, so that a word in them is not a finding. A parser would not make this simpler:
sqlglot reads every card, but renames date functions (toMonday becomes TimestampTrunc), and EXPLAIN AST needs an engine.
"""

import re
from collections.abc import Iterator

_TAG = re.compile(r"\{\{[^{}]*\}\}")
_BLANKED = re.compile(r"""'(?:[^'\\]|\\.|'')*'|"[^"]*"|`[^`]*`|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_DIVISION = re.compile(r"/\s*(nullIf\s*\(|\d+(?:\.\d+)?(?![\w.]))?", re.IGNORECASE)
_DIVIDING = re.compile(r"\b(?:divide|intDiv|modulo|moduloOrZero|pmod|positiveModulo)\s*\(", re.IGNORECASE)
_TO_DAY = re.compile(r"\b(toDate32|toDate|toStartOf(?:Day|Week|Month|Quarter|Year)|toMonday)\s*\(", re.IGNORECASE)
_TRUNCATING = re.compile(r"\b(?:date_trunc|dateTrunc)\s*\(", re.IGNORECASE)
_ARBITRARY = re.compile(r"\b(any|anyLast|any_value|first_value|anyHeavy)\s*\(", re.IGNORECASE)
_CLOCK = re.compile(r"\b(now64|now|today|yesterday|rand|rand64|generateUUIDv4)\s*\(", re.IGNORECASE)
_WRITING = re.compile(
    r"\b(INSERT|ALTER|DROP|CREATE|TRUNCATE|RENAME|ATTACH|DETACH|OPTIMIZE|SYSTEM|GRANT|SET)\b\s", re.IGNORECASE
)
_FROM_SESSIONS = re.compile(
    r"\b(?:FROM|JOIN)\s+dwh\.(sessions|catalog_sessions|product_sessions|visits_between|visits)\b", re.IGNORECASE
)
_WITHOUT_BOTS = re.compile(r"\bNOT\s+(?:\w+\.)?is_bot\b|\bis_bot\s*=\s*(?:0|false)\b", re.IGNORECASE)
_FIXED_DAY = re.compile(r"'\d{4}-\d{2}-\d{2}'")
_ZERO = re.compile(r"0(?:\.0+)?")
_SAFE_DIVISOR = re.compile(r"\s*(?:[1-9]\d*|nullIf\(.*\))\s*", re.IGNORECASE | re.DOTALL)


def problems(sql: str, *, include_bots: bool = False) -> Iterator[tuple[str, str]]:
    """The check and the message of each problem; `include_bots` is for cards that count bots on purpose."""
    bare = _BLANKED.sub(_blank, sql)
    yield from _statement(sql, bare)
    yield from _ratios(bare)
    yield from _days(bare)
    if match := _ARBITRARY.search(bare):
        yield "order", f"{match[1]}(…) returns an arbitrary row: use max, min, or argMax with an order"
    if match := _CLOCK.search(bare):
        yield "clock", f"{match[1]}() makes the result depend on the current time: take days from dwh.days"
    if match := _FIXED_DAY.search(_TAG.sub("", sql)):
        yield "days", f"the day {match[0]} is hard-coded: take days from the date filter"
    if not include_bots:
        yield from _bots(bare)


def tables_read(sql: str) -> set[str]:
    """The tables that the SQL reads by name, as `database.table`."""
    bare = _BLANKED.sub(_blank, sql)
    return {match[1].lower() for match in re.finditer(r"\b(?:FROM|JOIN)\s+(\w+\.\w+)", bare, re.IGNORECASE)}


def _blank(match: re.Match[str]) -> str:
    """Replace a string by an empty one, a quoted name by a fixed one, a comment by a space."""
    return {"'": "''", '"': '"name"', "`": '"name"'}.get(match[0][0], " ")


def _statement(sql: str, bare: str) -> Iterator[tuple[str, str]]:
    if not re.match(r"\s*(?:SELECT|WITH)\b", sql, re.IGNORECASE):
        yield "statement", "a card's SQL must start with SELECT or WITH"
    if ";" in bare:
        yield "statement", "a card's SQL must be one statement without a semicolon"
    if match := _WRITING.search(bare):
        yield "statement", f"{match[1]} is not allowed: a card only reads"
    if re.search(r"\bFORMAT\s+\w+\s*$", bare.rstrip(), re.IGNORECASE):
        yield "statement", "remove FORMAT: Carat chooses it"
    if bare.count("(") != bare.count(")"):
        yield "statement", "the parentheses do not match"
    if re.search(r"\bSELECT\s+\*\s+FROM\s+\w+\.\w+", bare, re.IGNORECASE):
        yield "statement", "SELECT * reads every column: name those that are needed"


def _ratios(bare: str) -> Iterator[tuple[str, str]]:
    for match in _DIVISION.finditer(bare):
        divisor = match[1]
        if divisor is None or _ZERO.fullmatch(divisor):
            shown = " ".join(bare[match.start() : match.start() + 40].split())
            yield "ratios", f"{shown!r} may divide by zero: divide by nullIf(…, 0) or by a number"
        elif divisor.lower().startswith("nullif") and not _ends_in_zero(bare, match.end() - 1):
            yield "ratios", "nullIf(…) in a ratio takes 0 as its second argument"
    for match in _DIVIDING.finditer(bare):
        if not _SAFE_DIVISOR.fullmatch(_arguments(bare, match.end() - 1)[-1]):
            yield "ratios", f"{match[0].strip()}…) may divide by zero: divide by nullIf(…, 0) or by a number"


def _days(bare: str) -> Iterator[tuple[str, str]]:
    for match in _TO_DAY.finditer(bare):
        arguments = _arguments(bare, match.end() - 1)
        is_literal = arguments and arguments[0].strip() in {"''", ""}
        if len(arguments) == 1 and not is_literal:
            yield (
                "days",
                (
                    f"{match[1]}({arguments[0].strip()}) splits days at midnight UTC: use the stored business day, "
                    "or name the time zone if there is none"
                ),
            )
    if truncating := _TRUNCATING.search(bare):
        yield "days", f"{truncating[0]}…) splits at midnight UTC: use the stored business day"


def _bots(bare: str) -> Iterator[tuple[str, str]]:
    for match in _FROM_SESSIONS.finditer(bare):
        if not _WITHOUT_BOTS.search(_rest_of_select(bare, match.end())):
            yield "bots", f"dwh.{match[1]} is read without NOT is_bot: bots would be counted"
    if re.search(r"\bFROM\s+dwh\.events\b", bare, re.IGNORECASE) and not _WITHOUT_BOTS.search(bare):
        yield "bots", "dwh.events is read without a filter on the sessions of humans (NOT is_bot)"


def _rest_of_select(bare: str, start: int) -> str:
    """The rest of the SELECT in the same parentheses, without nested parentheses."""
    depth, kept = 0, []
    for character in bare[start:]:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if depth == 0:
            kept.append(character)
    return re.split(r"\bUNION\b", "".join(kept), flags=re.IGNORECASE)[0]


def _arguments(bare: str, opening: int) -> list[str]:
    """The arguments of the call whose opening parenthesis is at this position."""
    depth, found, current = 0, [], ""
    for character in bare[opening:]:
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            found.append(current)
            break
        if character == "," and depth == 1:
            found.append(current)
            current = ""
        elif not (character == "(" and depth == 1 and not current and not found):
            current += character
    return found


def _ends_in_zero(bare: str, opening: int) -> bool:
    return _arguments(bare, opening)[-1].strip() == "0"
