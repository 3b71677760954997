"""Expressions of the endpoint map: JMESPath over a call record, and which of them can be read column by column.

A plain path (`response.items[].id`) and a condition made of plain paths are read for many calls at once. Everything
else is evaluated by the library on one document at a time, within a bound on its work.

Deviations from the standard, all documented in docs/endpoint-map.md: comparisons of scalars compare the text; `"false"`
is false and an empty object is true; a function that does not take its argument is null; a projection at the end keeps
its gaps; text on the way of a path is read as the document it holds.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import jmespath
from jmespath import functions
from jmespath.exceptions import JMESPathError, JMESPathTypeError
from jmespath.visitor import TreeInterpreter

from app.core.suggestions import choose_from
from app.rules.embedded_text import document_in
from app.rules.field_path import ITEMS

DOCUMENTS = ("request", "response")
ROOTS = (*DOCUMENTS, "path", "method", "endpoint", "status")
MAX_LENGTH = 1_000
MAX_STEPS = 100_000  # of one expression on one document
_MAX_DEPTH = 50
_KEY = re.compile(r'"(?P<quoted>(?:[^"\\]|\\.)+)"|(?P<plain>[\w$-]+)')

Keys = tuple[str, ...]


class ExpressionError(ValueError):
    """An expression that cannot be used, and why."""


class TooCostlyError(Exception):
    """The work of an expression on one document is beyond the bound."""


@dataclass(frozen=True)
class Expression:
    """One expression; `keys` are those of a plain path, empty for any other expression.

    `place` leads from the text's syntax tree to the part that is meant, child by child.
    """

    text: str
    keys: Keys
    place: tuple[int, ...] = ()

    @property
    def is_plain(self) -> bool:
        return bool(self.keys)

    @property
    def roots(self) -> frozenset[str]:
        """The parts of the record that the expression reads."""
        return frozenset({self.keys[0]}) if self.keys else _roots(_tree(self))

    @property
    def placeholders(self) -> frozenset[str]:
        """The placeholders of the path that the expression reads by name."""
        if self.keys:
            return frozenset(self.keys[1:] if self.keys[0] == "path" else ())
        return frozenset(_placeholders(_tree(self)))


@dataclass(frozen=True)
class Test:
    """A condition on one plain path: it has a value (`values` is None), or its text is one of `values`.

    None among the values stands for a missing value.
    """

    keys: Keys
    values: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class Search:
    """A condition for the library: the expression's result is not false."""

    expression: Expression


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    condition: "Condition"


@dataclass(frozen=True)
class AllOf:
    """Every one of some conditions."""

    conditions: tuple["Condition", ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one of some conditions."""

    conditions: tuple["Condition", ...]


Condition = Test | Search | Not | AllOf | AnyOf


def parse_expression(text: str) -> Expression:
    """The expression in a text; ExpressionError says what is wrong with it."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
    if keys := _plain_keys(text):
        return Expression(text, keys)
    _require_usable(_compiled(text))
    return Expression(text, ())


def parse_condition(text: str) -> Condition:
    """The condition in a text; ExpressionError says what is wrong with it."""
    expression = parse_expression(text)
    if expression.is_plain:
        return Search(Expression(text, ())) if ITEMS in expression.keys else Test(expression.keys)
    return _condition(_compiled(text), text, ())


def conjuncts(condition: Condition | None) -> tuple[Condition, ...]:
    """The parts of a condition that must all hold."""
    if condition is None:
        return ()
    return condition.conditions if isinstance(condition, AllOf) else (condition,)


def placeholders_of(condition: Condition | None) -> frozenset[str]:
    """The placeholders of the path that a condition reads by name."""
    leaves = leaves_of(AllOf(conjuncts(condition)))
    expressions = (Expression("", leaf.keys) if isinstance(leaf, Test) else leaf.expression for leaf in leaves)
    return frozenset().union(*(expression.placeholders for expression in expressions))


def roots_of(condition: Condition) -> frozenset[str]:
    """The parts of the record that a condition reads."""
    match condition:
        case Test(keys=keys):
            return frozenset({keys[0]})
        case Search(expression=expression):
            return expression.roots
        case Not(condition=inner):
            return roots_of(inner)
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            return frozenset().union(*map(roots_of, parts))


def leaves_of(condition: Condition) -> Iterator[Test | Search]:
    """The tests and searches that a condition is made of."""
    match condition:
        case Test() | Search():
            yield condition
        case Not(condition=inner):
            yield from leaves_of(inner)
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            for part in parts:
                yield from leaves_of(part)


# ---- plain paths -------------------------------------------------------------------------------------------------


def _plain_keys(text: str) -> Keys:
    """The keys of a plain path; empty for any other expression."""
    keys: list[str] = []
    rest = text.strip()
    while rest:
        match = _KEY.match(rest)
        if match is None:
            return ()
        keys.append(match["plain"] or re.sub(r"\\(.)", r"\1", match["quoted"]))
        rest = rest[match.end() :]
        if rest.startswith("[]"):
            keys.append(ITEMS)
            rest = rest[2:]
        if rest and not rest.startswith("."):
            return ()
        if rest == ".":
            return ()
        rest = rest[1:]
    return tuple(keys) if _is_plain(keys) else ()


def _is_plain(keys: list[str]) -> bool:
    if not keys or keys[0] not in ROOTS:
        return False
    if keys[0] in DOCUMENTS:
        return len(keys) > 1 and keys[1] != ITEMS and keys[-1] != ITEMS and keys.count(ITEMS) <= 1
    return ITEMS not in keys and len(keys) == (2 if keys[0] == "path" else 1)


# ---- conditions --------------------------------------------------------------------------------------------------


def _condition(node: dict[str, Any], text: str, place: tuple[int, ...]) -> Condition:  # noqa: PLR0911  a case each
    children = node["children"]
    parts = (_condition(child, text, (*place, number)) for number, child in enumerate(children))
    match node["type"]:
        case "and_expression":
            return AllOf(tuple(_flat(AllOf, parts)))
        case "or_expression":
            return AnyOf(tuple(_flat(AnyOf, parts)))
        case "not_expression":
            return Not(next(parts))
        case "comparator" if node["value"] in {"eq", "ne"}:
            if test := _comparison(*children):
                return test if node["value"] == "eq" else Not(test)
        case "function_expression" if node["value"] == "contains":
            values, keys = _literals(children[0]), _keys_of(children[1])
            if values is not None and keys:
                return Test(keys, values)
        case _:
            if keys := _keys_of(node):
                return Test(keys)
    return Search(Expression(text, (), place))


def _flat(kind: type[AllOf | AnyOf], conditions: Iterator[Condition]) -> Iterator[Condition]:
    for condition in conditions:
        if isinstance(condition, kind):
            yield from condition.conditions
        else:
            yield condition


def _comparison(left: dict[str, Any], right: dict[str, Any]) -> Test | None:
    for path, literal in ((left, right), (right, left)):
        values, keys = _literals(literal), _keys_of(path)
        # Equal to a list is not one of a list.
        if keys and values is not None and literal["type"] == "literal" and not isinstance(literal["value"], list):
            return Test(keys, values)
    return None


def _literals(node: dict[str, Any]) -> tuple[str | None, ...] | None:
    """The text of a literal scalar, or of a list of them; None for anything else."""
    if node["type"] == "multi_select_list":
        found = [_literals(child) for child in node["children"]]
        return tuple(value for values in found for value in values or ()) if None not in found else None
    if node["type"] != "literal":
        return None
    values = node["value"] if isinstance(node["value"], list) else [node["value"]]
    if any(isinstance(value, list | dict) for value in values):
        return None
    return tuple(comparable(value) for value in values)


def _keys_of(node: dict[str, Any]) -> Keys:
    """The keys of a plain path without `[]` in a syntax tree."""
    if node["type"] == "field":
        keys = [node["value"]]
    elif node["type"] == "subexpression" and all(child["type"] == "field" for child in node["children"]):
        keys = [child["value"] for child in node["children"]]
    elif node["type"] == "subexpression":
        parts = [_keys_of(child) if child["type"] == "subexpression" else _field(child) for child in node["children"]]
        keys = [key for part in parts for key in part] if all(parts) else []
    else:
        keys = []
    return tuple(keys) if _is_plain(keys) else ()


def _field(node: dict[str, Any]) -> Keys:
    return (node["value"],) if node["type"] == "field" else ()


def comparable(value: Any) -> str | None:
    """A value as conditions compare it: its text, a number in its shortest form; None where there is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return shortest_number(str(value))
    if isinstance(value, int | float):
        return shortest_number(repr(value))
    return "" if isinstance(value, list) and not value else "\0"  # equal to no literal


def shortest_number(text: str) -> str:
    """`200.0` and `2e2` as `200`; any other text as it is."""
    if not text or text[-1] not in "0123456789." or not re.fullmatch(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?", text):
        return text
    if text.isdigit():
        return text.lstrip("0") or "0"
    try:
        return format(Decimal(text).normalize() + 0, "f")
    except InvalidOperation:
        return text


# ---- the library -------------------------------------------------------------------------------------------------


def search(expression: Expression, record: dict[str, Any], decode: Callable[[str], Any] | None = None) -> Any:
    """The result of an expression on one record; TooCostlyError beyond the bound, None for what it cannot compute."""
    try:
        return _Interpreter(decode).search(_tree(expression), record)
    except (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError):
        return None


def is_true(value: Any) -> bool:
    """Whether a condition's result counts as true."""
    return not (value is None or value is False or value in ("", "false") or value == [])


def _is_equal(left: Any, right: Any) -> bool:
    """Whether two values are the same, or scalars with the same text."""
    if isinstance(left, list | dict) or isinstance(right, list | dict):
        return bool(left == right)
    return comparable(left) == comparable(right)


class _Functions(functions.Functions):
    """The library's functions; `contains` compares as `==` does."""

    @functions.signature({"types": ["array", "string"]}, {"types": []})
    def _func_contains(self, subject: list[Any] | str, value: Any) -> bool:
        if isinstance(subject, str):
            return isinstance(value, str) and value in subject
        return any(_is_equal(item, value) for item in subject)


class _Interpreter(TreeInterpreter):
    """The library's interpreter with the deviations named above, and a bound on its steps."""

    _functions = _Functions()

    def __init__(self, decode: Callable[[str], Any] | None) -> None:
        super().__init__(jmespath.Options(custom_functions=self._functions))
        self._steps = MAX_STEPS
        self._decode = decode or document_in

    def search(self, node: dict[str, Any], record: Any) -> Any:
        if node["type"] == "pipe":
            return self.search(node["children"][1], self.visit(node["children"][0], record))
        if node["type"] == "projection":
            return self._with_gaps(node, lambda _: True, record)
        if node["type"] == "filter_projection":
            return self._with_gaps(node, lambda item: is_true(self.visit(node["children"][2], item)), record)
        return self.visit(node, record)

    def _with_gaps(self, node: dict[str, Any], takes: Callable[[Any], bool], record: Any) -> Any:
        items = self.visit(node["children"][0], record)
        if not isinstance(items, list):
            return None
        return [self.visit(node["children"][1], item) for item in items if takes(item)]

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().visit(node, *args, **kwargs)
        self._steps -= 1 + (len(result) if isinstance(result, list | str) and node["type"] not in _CHEAP else 0)
        if self._steps < 0:
            raise TooCostlyError
        return result

    def visit_field(self, node: Any, value: Any) -> Any:
        if isinstance(value, str):
            value = self._decode(value)
        return value.get(node["value"]) if isinstance(value, dict) else None

    def visit_flatten(self, node: Any, value: Any) -> Any:
        items = self.visit(node["children"][0], value)
        if isinstance(items, str):
            items = self._decode(items)
        if not isinstance(items, list):
            return None
        return [part for item in items for part in (item if isinstance(item, list) else [item])]

    def visit_comparator(self, node: Any, value: Any) -> Any:
        if node["value"] not in {"eq", "ne"}:
            return super().visit_comparator(node, value)
        left, right = (self.visit(child, value) for child in node["children"])
        return _is_equal(left, right) is (node["value"] == "eq")

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        try:
            return super().visit_function_expression(node, value)
        except JMESPathTypeError:
            return None

    def _is_false(self, value: Any) -> bool:
        return not is_true(value)

    def visit_not_expression(self, node: Any, value: Any) -> bool:
        return not is_true(self.visit(node["children"][0], value))


_CHEAP = frozenset({"field", "subexpression", "literal", "current", "identity", "index", "index_expression"})
# Of these only the first child reads the record itself.
_FIRST_CHILD_READS = frozenset(
    {"subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection"}
)
_compiled_texts: dict[str, dict[str, Any]] = {}


def _tree(expression: Expression) -> dict[str, Any]:
    """The syntax tree of an expression."""
    if expression.text not in _compiled_texts:
        _compiled_texts[expression.text] = _compiled(expression.text)
    node = _compiled_texts[expression.text]
    for number in expression.place:
        node = node["children"][number]
    return node


def _compiled(text: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `text` in backquotes, which the library still reads
            parsed = _with_outer_not(dict(jmespath.compile(text).parsed))
    except JMESPathError as error:
        problem = " ".join(line.strip() for line in str(error).splitlines() if line.strip(" ^"))
        raise ExpressionError(f"is not a valid JMESPath expression: {problem[:200]}") from None
    except RecursionError:
        raise ExpressionError("is nested too deeply") from None
    return parsed


def _with_outer_not(node: dict[str, Any]) -> dict[str, Any]:
    """The tree with `!a.b` read as `!(a.b)`: by the standard's binding powers it would be `(!a).b`."""
    children = [_with_outer_not(child) if isinstance(child, dict) else child for child in node["children"]]
    if node["type"] in {"subexpression", "index_expression", "projection", "filter_projection"}:
        first = children[0]
        if isinstance(first, dict) and first["type"] == "not_expression":
            inner = node | {"children": [first["children"][0], *children[1:]]}
            return first | {"children": [_with_outer_not(inner)]}
    return node | {"children": children}


def _require_usable(node: dict[str, Any], depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ExpressionError(f"is nested more than {_MAX_DEPTH} deep")
    if node["type"] == "function_expression":
        _require_function(node["value"], len(node["children"]))
    for child in node["children"]:
        if isinstance(child, dict):
            _require_usable(child, depth + 1)


def _require_function(name: str, arguments: int) -> None:
    known = _Functions.FUNCTION_TABLE
    if name not in known:
        raise ExpressionError(f"names no function of JMESPath: {name}. {choose_from(name, sorted(known))}")
    signature = known[name]["signature"]
    has_more = bool(signature) and bool(signature[-1].get("variadic"))
    if arguments != len(signature) and not (has_more and arguments > len(signature)):
        raise ExpressionError(f"gives {name} {arguments} arguments; it takes {len(signature)}{' or more' * has_more}")


def _placeholders(node: dict[str, Any]) -> Iterator[str]:
    children = [child for child in node["children"] if isinstance(child, dict)]
    if node["type"] == "subexpression" and [child["type"] for child in children[:2]] == ["field", "field"]:
        if children[0]["value"] == "path":
            yield children[1]["value"]
    elif node["type"] in _FIRST_CHILD_READS:
        yield from _placeholders(children[0])
    else:
        for child in children:
            yield from _placeholders(child)


def _roots(node: dict[str, Any]) -> frozenset[str]:
    """The fields that a tree reads from the record itself: those left of every dot, pipe or projection."""
    children = [child for child in node["children"] if isinstance(child, dict)]
    match node["type"]:
        case "field":
            return frozenset({node["value"]})
        case kind if kind in _FIRST_CHILD_READS:
            return _roots(children[0])
        case "current":
            return frozenset(ROOTS)
        case _:
            return frozenset().union(*map(_roots, children))
