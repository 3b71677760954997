"""Removes a person's identifiers from texts and from calls; JSON stays valid, and nothing else of a text changes."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

import polars as pl

from app.jobs.forget.identifiers import Identifiers, decoded, spellings, words_of
from app.jobs.forget.patterns import (
    MEMBER,
    OPENED,
    OPENING,
    OWN_ID,
    RESOURCE,
    WRAPPERS,
    anchor,
    anywhere_pattern,
    json_token,
    phone_pattern,
    place_pattern,
    short_pattern,
    words_pattern,
)

# Every column of a call that holds text which others may have written about the person.
ID_COLUMNS = ("visitor_id", "session_token", "user_id")
TEXT_COLUMNS = ("method", "endpoint", "ip", "user_agent", "referrer", "page_url", "request", "response")
SEARCHED_COLUMNS = (*ID_COLUMNS, *TEXT_COLUMNS)
BODIES = frozenset({"request", "response"})
_FILLER, _NUMBER_FILLER = "forgotten", "0"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+\-]?\d+)?")
_CONTEXT = 120  # characters before an id that say what it is
_ENDS_A_PLACE = re.compile(r"[\"'=:>/\[(\\\s]\Z|%[0-9a-fA-F]{2}\Z")  # quick, and true of every place
_STRUCTURE = re.compile(r"[\"'{}\[\]:=,]|&(?!#?\w+;)|%(?:25)*(?:22|27|3D|26|3A|2C)", re.IGNORECASE)


def redacted(text: str, ids: Identifiers, *, same_length: bool = False, is_of_person: bool = False) -> str:
    """The text without the person's ids. With `same_length` every other byte keeps its place.

    `is_of_person`: the text is JSON that describes people, as the answer to `/users/17` does.
    """
    instead = _same_length if same_length else _filler
    if (anywhere := anywhere_pattern(ids)) and _has_anchor(text, ids):
        text = anywhere.sub(lambda match: _instead_of_words(match[0], instead), text)
    if short := short_pattern(ids):
        found = [(match.lastgroup or "", match.span(), _left(text, match.start())) for match in short.finditer(text)]
        spans = [span for kind, span, left in found if _ENDS_A_PLACE.search(left) and place_pattern(kind).search(left)]
        if any(kind == "users" and MEMBER.search(left) for kind, _, left in found):
            spans += _nested(text, frozenset(ids.placed("users")), is_of_person=is_of_person)
        text = _without_spans(text, spans, instead)
    return text


def _left(text: str, at: int) -> str:
    return text[max(0, at - _CONTEXT) : at]


@lru_cache(maxsize=256)
def _anchors(ids: Identifiers) -> tuple[str, ...]:
    """What a text must contain, in lower case, to name somebody anywhere: one of these; none where any text may."""
    anchors = tuple(map(anchor, ids.anywhere))
    return anchors if all(anchors) and not ids.phones else ()


def _has_anchor(text: str, ids: Identifiers) -> bool:
    anchors = _anchors(ids)
    lowered = text.lower() if anchors else ""
    return not anchors or any(one in lowered for one in anchors)


def may_name(text: pl.Expr, ids: Identifiers) -> pl.Expr:
    """Whether a text may contain one of the identifiers; `redacted` decides."""
    every = {words for value in (*ids.texts, *ids.ids) for words in spellings(value)}
    anchors = sorted({anchor(words) for words in every} - {""})
    tests = [text.str.contains_any(anchors, ascii_case_insensitive=True)] if anchors else []
    tests += [text.str.contains("(?i)" + words_pattern(words)) for words in every if not anchor(words)]
    tests += [text.str.contains(phone_pattern(digits)) for digits in ids.phones]
    return pl.any_horizontal(tests)


def clean_calls(calls: pl.DataFrame, ids: Identifiers) -> pl.DataFrame:
    """Calls, in the shape of `pd.api_calls`, with the person's ids removed from what they say."""
    if not ids:
        return calls
    anywhere = anywhere_pattern(ids)
    columns = dict[str, list[str]]()
    if anywhere:
        for name in ID_COLUMNS:
            columns[name] = [anywhere.sub(lambda match: _instead_of_words(match[0], _filler), v) for v in calls[name]]
    of_person = [RESOURCE.search(endpoint) is not None for endpoint in calls["endpoint"]]
    for name in TEXT_COLUMNS:
        is_body = name in BODIES
        columns[name] = [
            redacted(text, ids, is_of_person=is_body and person)
            for text, person in zip(calls[name], of_person, strict=True)
        ]
    return calls.with_columns(pl.Series(name, values, dtype=calls.schema[name]) for name, values in columns.items())


def _filler(text: str) -> str:
    return _NUMBER_FILLER if _NUMBER.fullmatch(text) else _FILLER


def _same_length(text: str) -> str:
    size = len(text.encode("utf-8", "surrogateescape"))
    return _filler(text)[:size].ljust(size)


def _instead_of_words(text: str, instead: Callable[[str], str]) -> str:
    """In place of an identifier's words: one filler, or one for each part where JSON's or a URL's marks lie between."""
    if not _STRUCTURE.search(text):
        return instead(text)
    at, parts = 0, []
    for mark in _STRUCTURE.finditer(text):
        parts += [instead(part) if _is_word(part := text[at : mark.start()]) else text[at : mark.start()], mark[0]]
        at = mark.end()
    last = text[at:]
    return "".join([*parts, instead(last) if _is_word(last) else last])


def _is_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


# ---- ids within the objects of a person ---------------------------------------------------------------------------


def _nested(text: str, wanted: frozenset[tuple[str, ...]], *, is_of_person: bool) -> Iterator[tuple[int, int]]:
    """Where these user ids, as words, stand as the own id of an object that describes a person."""
    if is_of_person:
        yield from _own_ids(text, 0, 0, wanted)
    for opening in OPENING.finditer(text):
        if OPENED.search(_left(text, opening.start())):
            yield from _own_ids(text, opening.end(), len(opening[1]), wanted)


def _own_ids(text: str, start: int, escapes: int, wanted: frozenset[tuple[str, ...]]) -> Iterator[tuple[int, int]]:
    """The spans of these ids in the JSON that begins at `start`: own ids of its objects, and elements of its lists."""
    open_: list[tuple[str, bool]] = []  # of each open object or list: its bracket, and whether it describes people
    key = ""
    expects_value = True
    for token in json_token(escapes).finditer(text, start):
        mark = token["mark"]
        if mark in ("{", "["):
            is_wrapper = not open_ or open_[-1][0] == "[" or key.lower() in WRAPPERS
            open_.append((mark, is_wrapper and (not open_ or open_[-1][1])))
            expects_value = mark == "["
        elif mark in ("}", "]"):
            open_ = open_[:-1]
        elif mark and open_:
            expects_value = mark == ":" or open_[-1][0] == "["
        if not open_:
            return
        if mark:
            continue
        if not expects_value:
            key = token["text"] or ""
        else:
            name = "text" if token["text"] is not None else "number"
            bracket, is_of_person = open_[-1]
            is_own = bracket == "[" or OWN_ID.fullmatch(key) is not None
            if is_of_person and is_own and _id_words(token[name]) in wanted:
                yield token.span(name)


def _id_words(value: str) -> tuple[str, ...]:
    return words_of(decoded(re.sub(r"\.0+$", "", value)))


def _without_spans(text: str, spans: list[tuple[int, int]], instead: Callable[[str], str]) -> str:
    for start, end in sorted(set(spans), reverse=True):
        text = text[:start] + instead(text[start:end]) + text[end:]
    return text
