"""Calls of a log by method, path and operation, with a bounded sample of each group."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.rules.drafting import words
from app.rules.drafting.operations import Operation, operation_of
from app.rules.drafting.paths import is_id, segments_of
from app.rules.embedded_text import document_in

FAILED_STATUS = 400
ID = "{id}"
ID_KEYS = frozenset({"id", "uid", "sku", "productid", "idproduct"})
HANDLE_KEYS = frozenset({"handle", "slug", "urlkey", "sku", "id", "uid"})

_SAMPLES = 60  # of a group; of each shape of answer no more than half
_PARSE_EACH = 16  # of further calls one of so many is looked at, for rarer shapes of answer
_MAX_GROUPS = 5_000
_MANY_SLUGS = 8  # of products, orders and the like; anywhere else it takes more
_VERY_MANY_SLUGS = 40
_WORDS_OF_SLUG = 3
_STATES = frozenset({"status", "state", "type", "result", "paymentstatus", "success"})
_MAX_LISTED = 20_000
_MAX_HANDLES = 50_000
_MAX_ELEMENTS = 20
_MAX_KEYS = 80
_MAX_DEPTH = 10
_MAX_TEXT = 300
_EXTENSIONS = (".json", ".js", ".html", ".htm", ".php", ".xml")

Key = tuple[str, tuple[str, ...], str]  # method, folded segments, the operation's condition


@dataclass(frozen=True)
class Sample:
    """One call: its segments as sent, and its documents, cut to a bounded size."""

    segments: tuple[str, ...]
    status: int
    request: dict[str, Any]
    response: Any


@dataclass
class Group:
    """The calls of one method, path and operation."""

    method: str
    path: tuple[str, ...]
    operation: Operation
    calls: int = 0
    failed: int = 0
    samples: list[Sample] = field(default_factory=list)
    shapes: Counter[str] = field(default_factory=Counter)
    listed: dict[str, set[str]] = field(default_factory=dict)  # ids in lists of answers, also of those not kept

    @property
    def is_write(self) -> bool:
        """Whether the calls change something, as far as method and operation say."""
        return self.method not in {"GET", "HEAD"} if self.operation.is_write is None else self.operation.is_write

    def wants_sample(self) -> bool:
        """Whether the next call's documents are to be looked at."""
        return len(self.samples) < _SAMPLES or self.calls % _PARSE_EACH == 0

    def add_sample(self, sample: Sample) -> None:
        """Keep the call, unless calls with such an answer are known well enough."""
        for key, value in _listed_ids(sample.response):
            ids = self.listed.setdefault(key, set())
            if len(ids) < _MAX_LISTED:
                ids.add(value)
        shape = _shape_of(sample.response)
        limit = _SAMPLES // 2 if len(self.samples) < _SAMPLES else _SAMPLES // 20
        if self.shapes[shape] < limit and len(self.samples) < 2 * _SAMPLES:
            self.shapes[shape] += 1
            self.samples.append(sample)

    def take(self, other: "Group") -> None:
        """Add the calls of another group."""
        self.calls += other.calls
        self.failed += other.failed
        for sample in other.samples:
            self.add_sample(sample)
        for key, ids in other.listed.items():
            self.listed.setdefault(key, set()).update(ids)


class CallGroups:
    """The groups of a log, which is read once and in order; the memory that they take is bounded."""

    def __init__(self) -> None:
        self._groups: dict[Key, Group] = {}
        self._folded: set[tuple[str, ...]] = set()  # what stands before segments that are slugs
        self.calls = 0
        self.overflow = 0  # calls of groups beyond the limit

    def add(self, method: str, endpoint: str, status: int, request: Any, response: Any) -> None:
        """Add a call; request and response are decoded, or functions that decode them."""
        self.calls += 1
        segments = tuple(segments_of(endpoint))
        request = with_documents(request() if callable(request) else request, endpoint)
        operation = operation_of(request)
        key = (method.upper(), self._fold(segments), operation.condition)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _MAX_GROUPS:
                self._fold_slugs()
            if len(self._groups) >= _MAX_GROUPS:
                self.overflow += 1
                return
            group = self._groups.setdefault(key, Group(key[0], key[1], operation))
        group.calls += 1
        if status >= FAILED_STATUS:
            group.failed += 1
        elif group.wants_sample():
            answer = response() if callable(response) else response
            group.add_sample(Sample(segments, status, trimmed(request), trimmed(_decoded(answer))))

    def groups(self) -> list[Group]:
        """The groups, the largest first, with slugs in paths folded: by their number, or because they were shown."""
        self._fold_slugs()
        self._fold_handles()
        return sorted(
            self._groups.values(), key=lambda one: (-one.calls, one.method, one.path, one.operation.condition)
        )

    def _fold(self, segments: tuple[str, ...]) -> tuple[str, ...]:
        folded: list[str] = []
        for segment in segments:
            is_slug = tuple(folded) in self._folded and _may_be_slug(segment)
            folded.append(ID if is_slug or is_id(segment) else segment)
        return tuple(folded)

    def _fold_slugs(self) -> None:
        children: dict[tuple[str, ...], set[str]] = {}
        for _, path, _ in self._groups:
            for place, segment in enumerate(path):
                if segment != ID and _may_be_slug(segment):
                    children.setdefault(path[:place], set()).add(segment)
        for prefix, slugs in children.items():
            is_of_shop = bool(prefix) and bool(set(words.words_of(prefix[-1])) & words.ANY)
            if len(slugs) >= (_MANY_SLUGS if is_of_shop else _VERY_MANY_SLUGS) and prefix:
                self._folded.add(prefix)
        self._regroup(lambda group: self._fold(group.path))

    def _fold_handles(self) -> None:
        handles = {
            handle
            for group in self._groups.values()
            for sample in group.samples
            for handle in _handles(sample.response)
        }
        known = set(sorted(handles)[:_MAX_HANDLES])
        self._regroup(
            lambda group: tuple(
                ID if segment != ID and without_extension(segment) in known and _may_be_slug(segment) else segment
                for segment in group.path
            )
        )

    def _regroup(self, path_of: Any) -> None:
        regrouped: dict[Key, Group] = {}
        for group in self._groups.values():
            key = (group.method, path_of(group), group.operation.condition)
            known = regrouped.get(key)
            if known is None:
                group.path = key[1]
                regrouped[key] = group
            else:
                known.take(group)
        self._groups = regrouped


def _may_be_slug(segment: str) -> bool:
    found = words.words_of(segment)
    return segment != ID and (len(found) >= _WORDS_OF_SLUG or not set(found) & words.ANY)


def without_extension(segment: str) -> str:
    """A segment without an ending such as `.json`."""
    return next((segment.removesuffix(one) for one in _EXTENSIONS if segment.endswith(one)), segment)


def _listed_ids(document: Any, depth: int = 0, *, is_listed: bool = False) -> Iterator[tuple[str, str]]:
    """The ids of the objects in the outermost lists of a document, by the plain form of their keys."""
    if isinstance(document, Mapping) and depth <= _MAX_DEPTH:
        for key, value in document.items():
            if is_listed and isinstance(value, str | int) and words.plain(key) in ID_KEYS:
                yield words.plain(key), str(value)
            elif isinstance(value, Mapping) or not is_listed:
                yield from _listed_ids(value, depth + 1, is_listed=is_listed)
    elif isinstance(document, list) and not is_listed:
        for one in document:
            yield from _listed_ids(one, depth + 1, is_listed=True)


def _handles(document: Any, depth: int = 0) -> Iterator[str]:
    """The texts by which a list's objects may be addressed."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(document, Mapping):
        for key, value in document.items():
            if isinstance(value, str) and words.plain(key) in HANDLE_KEYS:
                yield value
            else:
                yield from _handles(value, depth + 1)
    elif isinstance(document, list):
        for one in document:
            yield from _handles(one, depth + 1)


def with_documents(request: Any, endpoint: str) -> dict[str, Any]:
    """The request with its query and body as objects, where they are text that holds one."""
    sides: dict[str, Any] = request if isinstance(request, dict) else {}
    if not sides.get("query") and "?" in endpoint:
        sides = sides | {"query": endpoint.partition("?")[2].partition("#")[0]}
    return sides | {side: _decoded(sides[side]) for side in ("query", "body") if side in sides}


def _decoded(document: Any) -> Any:
    if isinstance(document, str):
        inner = document_in(document)
        return document if inner is None else inner
    return document


def trimmed(value: Any, depth: int = 0) -> Any:
    """The document without what a draft does not need: long lists and texts, many keys, deep branches."""
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT]
    if isinstance(value, Mapping):
        if depth >= _MAX_DEPTH:
            return {}
        return {key: trimmed(one, depth + 1) for key, one in _first(value.items(), _MAX_KEYS)}
    if isinstance(value, list):
        return [trimmed(one, depth + 1) for one in value[:_MAX_ELEMENTS]] if depth < _MAX_DEPTH else []
    return value


def _first(items: Iterable[Any], count: int) -> Iterator[Any]:
    for number, one in enumerate(items):
        if number >= count:
            return
        yield one


def _shape_of(document: Any) -> str:
    """The shape of an answer: which keys have a value, and what short words say of the state."""
    if not isinstance(document, dict):
        return type(document).__name__
    parts = []
    for key in sorted(document):
        value = document[key]
        inner = _first_level(value) if isinstance(value, dict) else ""
        parts.append(f"{key}{_kind(value)}{inner}{_state(key, value)}")
    return " ".join(parts)


def _first_level(value: dict[str, Any]) -> str:
    return "(" + " ".join(f"{key}{_kind(value[key])}{_state(key, value[key])}" for key in sorted(value)) + ")"


def _state(key: str, value: Any) -> str:
    return f"={value}" if isinstance(value, str) and words.plain(key) in _STATES else ""


def _kind(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if value is False:
        return "!"
    return "+"
