"""Finds values that follow a secret's name in a text: `password: x`, `"token":"x"`, `Security code: x`, `api_key=x`."""

import re
from collections.abc import Callable

from carat_client.credentials import REDACTED
from carat_client.evidence import DEPENDS, is_secret
from carat_client.names import ALLOWED, DENIED, LAST_WORD, SECRET

# A separator, and the name before it, matched backwards: most words of a text have none after them.
_SEPARATOR = re.compile(r"(?:=>|[=:]|\uff1a)\s{0,4}+")
# `Your code is 123456`: the value has a digit.
_SEPARATOR_OR_VERB = re.compile(
    r"(?:=>|[=:]|\uff1a)\s{0,4}+|\s(?:is|ist|lautet|est|es)\s{1,2}+(?=[^\s\d]{0,40}\d)(?=\S{4})"
)
_NAME = re.compile(r"\s{0,4}+[\"']?\\?((?:\][\w\-]{0,64}+\[){0,8}+[\w.\-]{1,64}+)(?![\w.\-])")
_LONGEST_NAME = 200
_VALUE = re.compile(
    r"\"(?:[^\"\\]|\\.)*+\"?|\\\"(?:[^\"\\]|\\[^\"])*+(?:\\?\")?|'[^']*+'?"
    r"|(?:(?:bearer|basic|digest|token)\s{1,4}+)?[^\s,;&<>]++",
    re.IGNORECASE,
)
_LINE = re.compile(r"[^\r\n]+")  # a header's value contains the usual separators
_HEADER_NAMES = ("cookie", "authorization")
_QUOTES_AND_ENDS = "\\\"')]}.,!?"
_GRAPHQL = re.compile(r"\$\w+|\[?[A-Z]\w*!?\]?!?")  # a variable, or a type
# The words before a name that may belong to it: `Security code: 123`.
_PHRASE = re.compile(r"(?:[^\W\d_]{1,20}+[ \t\u00a0\-']{1,2}){1,4}\Z")
_LONGEST_PHRASE = 48
_ORDINARY_WORDS = frozenset({"secret", "pass"})  # `The Secret: a locket`
_SHORTEST_ALONE = 6  # letters
_LONGEST_GRAPHQL = 20_000
_LONGEST_JUDGED = 200  # of a value; a text may hold thousands of names that are followed by all the rest
_HIDDEN = DEPENDS | {SECRET, DENIED}

Judge = Callable[[str], tuple[int, int]]  # of a name: its verdict and its roles


def without_named_values(text: str, judge: Judge) -> str:
    """Remove values that follow the name of a secret."""
    if "=" in text or ":" in text or "\uff1a" in text:
        text = _without(text, _SEPARATOR, judge)
    if " is " in text or " ist " in text or " lautet " in text or " est " in text or " es " in text:
        text = _without(text, _SEPARATOR_OR_VERB, judge)
    return text


def _without(text: str, separators: re.Pattern[str], judge: Judge) -> str:
    kept = []
    done = at = 0
    while separator := separators.search(text, at):
        at = separator.end()
        found = _NAME.match(text[max(separator.start() - _LONGEST_NAME, done) : separator.start()][::-1])
        if found is None:
            continue
        name, begins_at = found[1][::-1], separator.start() - found.end()
        verdict = _verdict(text, name, begins_at, judge)
        if verdict not in _HIDDEN:
            continue
        pattern = _LINE if name.lower().endswith(_HEADER_NAMES) else _VALUE
        begin = pattern.match(text, at, at + _LONGEST_JUDGED)
        if begin and _is_told(verdict, name, begin[0]) and not _is_graphql(text, begins_at, begin[0]):
            value = pattern.match(text, at)
            assert value is not None
            kept += [text[done:at], REDACTED]
            done = at = value.end()
    return "".join([*kept, text[done:]]) if kept else text


def _verdict(text: str, name: str, begins_at: int, judge: Judge) -> int:
    """The verdict on a name in a text, together with the words before it where these belong to it."""
    verdict, roles = judge(name)
    if not roles & LAST_WORD or verdict in {SECRET, ALLOWED, DENIED}:
        return verdict
    before = _PHRASE.search(text, max(begins_at - _LONGEST_PHRASE, 0), begins_at)
    return judge(before[0] + name)[0] if before else verdict


def _is_told(verdict: int, name: str, value: str) -> bool:
    bare = value.strip(_QUOTES_AND_ENDS)
    is_sentence = name.lower() in _ORDINARY_WORDS and bare.isalpha() and len(bare) < _SHORTEST_ALONE
    return is_secret(verdict, bare) and not is_sentence


def _is_graphql(text: str, begins_at: int, value: str) -> bool:
    """Whether a value is a type or a variable that the text declares: `login($word: String!) { … word: $word }`."""
    found = _GRAPHQL.match(value)
    if found is None:
        return False
    if text[begins_at - 1 : begins_at] == "$":
        return not found[0].startswith("$")
    return found[0].startswith("$") and len(text) <= _LONGEST_GRAPHQL and f"{found[0]}:" in text
