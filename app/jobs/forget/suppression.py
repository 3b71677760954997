"""Remembers who was forgotten, so that late files, replays and snapshots bring nobody back.

Only keyed hashes are stored. They are not secret: whoever has the warehouse can try short ids. They are the least that
is needed to recognise later data. Calls and rows of forgotten people are left out, and what other people's calls and
rows say of them is removed before anything is compared or stored.
"""

import hashlib
import html
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import polars as pl

from app.contracts import FORGOTTEN
from app.core.call_record import Line, RejectedRecordError
from app.core.no_ids import DEFAULT_NO_IDS, parse_no_ids
from app.intake.call_frames import reject_frame, reject_row
from app.jobs.forget.identifiers import Identifiers, decoded, merged, spellings, words_of
from app.jobs.forget.redaction import SEARCHED_COLUMNS, clean_calls, may_name, redacted
from app.warehouse import Warehouse

# CALL is for guests' calls on a shared device: no other id says whose they were.
USER, VISITOR, TOKEN, CALL = "user", "visitor", "token", "call"
# Where a visitor's first calls came from just before they had an id: ip, user agent and five minutes.
ORIGIN = "origin"
TEXT, PHONE = "text", "phone"
_COLUMNS = {USER: "user_id", VISITOR: "visitor_id", TOKEN: "session_token"}
# Kinds of digests by which texts are searched: of one word each identifier has; of all its words, as "user/3" for a
# user id of three words; of a phone number's last digits, as "phone/9".
_WORD, _WORDS = "word", "words"
_NAMED = {
    kind: re.compile(rb'"%s"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?\d+))' % column.encode())
    for kind, column in _COLUMNS.items()
}
_ORIGIN_MS = 5 * 60 * 1000
_KEY_BYTES = 32
_UUID_BYTES = 16
_NO_IDS = ("", *parse_no_ids(DEFAULT_NO_IDS))
_ROW = "\0row"
_REASON = "forgotten"
_BLOB_CHARACTERS = 4_000_000
# Escapes are parts of words: those of letters are read later, on each distinct word.
_SEPARATORS = {c for c in map(chr, range(128)) if not c.isalnum() and c not in "%\\"}
_WORDS_ONLY = bytes(ord(" ") if chr(c) in _SEPARATORS else c for c in range(256))
_NUMBERS = re.compile(rb"[0-9](?:[ ()./+\-]|%[0-9A-Fa-f]{2}|\\+/|\\+u00a0|\xc2\xa0|&nbsp;|[0-9]){5,}")
_ENTITY = r"&#?\w{1,8};"
_ESCAPED = re.compile(r"[\\%]")


@dataclass(frozen=True)
class Forgotten:
    """The users whose data is rejected forever, and the devices whose calls are rejected up to a moment."""

    key: str = ""
    until: Mapping[tuple[str, str], datetime] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.until)

    def moment(self, kind: str, value: str) -> datetime | None:
        """When the owner of the id was forgotten; None for everybody else."""
        return self.until.get((kind, digest_of(self.key, kind, value))) if value else None

    @cached_property
    def has_calls(self) -> bool:
        return any(kind == CALL for kind, _ in self.until)

    @cached_property
    def has_origins(self) -> bool:
        return any(kind == ORIGIN for kind, _ in self.until)

    def is_user(self, value: object) -> bool:
        """Whether a value of a column that holds users is a forgotten person's; a UUID may be kept as 16 bytes."""
        if isinstance(value, bytes) and len(value) == _UUID_BYTES and USER in self._kinds_of((value.hex(),)):
            return True
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        return self.moment(USER, text) is not None or TEXT in self._kinds_of(words_of(text))

    def named_in_records(self, records: Sequence[bytes]) -> Identifiers:
        """The forgotten people's identifiers that rejected records contain, as far as they can be read."""
        return self.named_in(pl.Series([_storable(readable(record)) for record in records], dtype=pl.String))

    def are_named(self, records: Sequence[bytes], ids: Identifiers) -> list[bool]:
        """Per rejected record whether it names a forgotten person; `ids`: what `named_in_records` says of them."""
        return [
            self._carries_id(record) or (bool(ids) and redacted(text := readable(record), ids) != text)
            for record in records
        ]

    def _carries_id(self, record: bytes) -> bool:
        found = (
            (kind, (text or number).decode(errors="replace"))
            for kind, pattern in _NAMED.items()
            for text, number in pattern.findall(record)
        )
        return any(self.moment(kind, value) for kind, value in found)

    # ---- who is named in texts

    @cached_property
    def _lengths(self) -> dict[str, set[int]]:
        """Per kind of identifier the numbers of words (of a phone: digits) that those of forgotten people have."""
        found: dict[str, set[int]] = {}
        for kind, _ in self.until:
            name, _, length = kind.partition("/")
            if length:
                found.setdefault(name, set()).add(int(length))
        return found

    @cached_property
    def _by_words(self) -> dict[str, list[str]]:
        """Per digest of an identifier's words its kinds."""
        found: dict[str, list[str]] = {}
        for kind, digest in self.until:
            name, _, length = kind.partition("/")
            if length and name != PHONE:
                found.setdefault(digest, []).append(name)
        return found

    def _phones_in(self, texts: pl.Series) -> set[str]:
        lengths = self._lengths.get(PHONE, ())
        endings = {
            (length, digits)
            for number in (_numbers_in(texts) if lengths else ())
            for length in lengths
            for digits in _endings(number, length)
        }
        return {digits for length, digits in endings if self.moment(f"{PHONE}/{length}", digits)}

    def _phrases(self, words: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The kind and words of each identifier of several words among these."""
        lengths = {length for kind, some in self._lengths.items() if kind != PHONE for length in some if length > 1}
        for length in sorted(lengths):
            for start in range(len(words) - length + 1):
                some = words[start : start + length]
                for kind in self._kinds_of(some):
                    yield kind, " ".join(some)

    def _kinds_of(self, words: Sequence[str]) -> list[str]:
        return self._by_words.get(digest_of(self.key, _WORDS, " ".join(words)), [])

    def named_in(self, texts: pl.Series) -> Identifiers:
        """The forgotten people's identifiers that these texts contain, as their words."""
        if not self._lengths or texts.is_empty():
            return Identifiers()
        found: dict[str, set[str]] = {kind: set() for kind in (USER, VISITOR, TOKEN, TEXT, PHONE)}
        distinct = texts.unique()
        longer = set[str]()  # words of identifiers of several words
        for raw in words_in(distinct):
            for word in _read(raw):
                digest = digest_of(self.key, _WORDS, word)
                for kind in self._by_words.get(digest, ()):
                    found[kind].add(word)
                if (_WORD, digest) in self.until:
                    longer.add(raw)
        if longer:
            for text in distinct.filter(distinct.str.contains_any(sorted(longer), ascii_case_insensitive=True)):
                for kind, value in self._phrases(words_of(decoded(text))):
                    found[kind].add(value)
        found[PHONE] = self._phones_in(distinct)
        return Identifiers(*(tuple(sorted(found[kind])) for kind in (USER, VISITOR, TOKEN, TEXT, PHONE)))

    def still_forgotten(self, ids: Identifiers, at: datetime) -> Identifiers:
        """The identifiers, as `named_in` returns them, without those of devices that were forgotten before."""

        def kept(kind: str, values: tuple[str, ...]) -> tuple[str, ...]:
            kinds = [(f"{kind}/{len(value.split())}", digest_of(self.key, _WORDS, value)) for value in values]
            return tuple(value for value, key in zip(values, kinds, strict=True) if self.until[key] >= at)

        return replace(ids, visitors=kept(VISITOR, ids.visitors), tokens=kept(TOKEN, ids.tokens))


def digest_of(key: str, kind: str, value: str) -> str:
    return hashlib.blake2b(
        f"{kind}\0{value}".encode(errors="replace"), key=bytes.fromhex(key), digest_size=16
    ).hexdigest()


def readable(data: bytes) -> str:
    """Bytes that may be text of any encoding, as text; of UTF-16 only what is ASCII there."""
    return data.replace(b"\0", b"").decode("utf-8", "surrogateescape")


def _rarest(value: str, words: tuple[str, ...]) -> str:
    """The word by which texts are looked through: not that of an e-mail's provider."""
    local = words_of(value.partition("@")[0])
    return max((word for word in words if word in local), key=len, default=max(words, key=len))


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode()


def words_in(texts: pl.Series) -> set[str]:
    """The stretches of texts that may say words, in lower case as far as they are ASCII; escapes are left in them."""
    found = set[bytes]()
    for blob in _blobs(texts):
        found.update(blob.lower().replace(b'\\"', b" ").translate(_WORDS_ONLY).split())
    escaped = texts.filter(texts.str.contains(_ENTITY))
    for text in escaped:
        found.update(html.unescape(text).encode(errors="replace").lower().translate(_WORDS_ONLY).split())
    return {word.decode(errors="replace") for word in found}


def _numbers_in(texts: pl.Series) -> set[str]:
    return {number.decode() for blob in _blobs(texts) for number in _NUMBERS.findall(blob)}


def _blobs(texts: pl.Series) -> Iterator[bytes]:
    """The texts joined, in pieces of a few megabytes."""
    piece, size = list[str](), 0
    for text in texts.drop_nulls():
        piece.append(text)
        size += len(text)
        if size > _BLOB_CHARACTERS:
            yield "\n".join(piece).encode(errors="replace")
            piece, size = [], 0
    yield "\n".join(piece).encode(errors="replace")


def _read(raw: str) -> tuple[str, ...]:
    """The words that a stretch without blanks says."""
    return words_of(decoded(raw) if _ESCAPED.search(raw) else raw)


def _endings(number: str, length: int) -> Iterator[str]:
    """The last digits of a number that is written in groups, of each group at which it may end."""
    digits = ""
    for group in re.findall(r"\d+", decoded(number)):
        digits += group
        if len(digits) >= length:
            yield digits[-length:]


def read_forgotten(warehouse: Warehouse) -> Forgotten:
    """Who was forgotten so far."""
    rows = warehouse.query(
        "SELECT key, kind, digest, max(forgotten_at) AS at FROM etl.forgotten GROUP BY key, kind, digest"
    )
    until = {(kind, digest): at for _, kind, digest, at in rows.iter_rows()}
    return Forgotten(rows["key"][0], until) if until else Forgotten()


def remember_forgotten(
    warehouse: Warehouse,
    ids: Identifiers,
    *,
    calls: Iterable[str] = (),
    came_from: Iterable[str] = (),
    now: datetime,
) -> None:
    """Store that the owner of these ids, of these single calls, and of calls from these `origins`, is forgotten."""
    known = read_forgotten(warehouse)
    key = known.key or secrets.token_hex(_KEY_BYTES)
    digests = {(CALL, digest_of(key, CALL, call)) for call in calls}
    digests |= {(ORIGIN, digest_of(key, ORIGIN, origin)) for origin in came_from}
    digests |= digests_of(key, ids)
    rows = [(now, kind, digest, key) for kind, digest in sorted(digests - set(known.until))]
    warehouse.insert(FORGOTTEN, pl.DataFrame(rows, schema=FORGOTTEN.schema, orient="row"))


def origins(ip: str, user_agent: str, first_ms: int, timeout_ms: int) -> list[str]:
    """Where first calls without an id come from that belong to the visitor whose own first call was at this moment."""
    steps = range((first_ms - timeout_ms) // _ORIGIN_MS, first_ms // _ORIGIN_MS + 1)
    return [f"{ip}\0{user_agent}\0{step}" for step in steps]


def identifiers_of(calls: pl.DataFrame, forgotten: Forgotten) -> Identifiers:
    """The ids by which these calls are forgotten people's."""

    def known(kind: str) -> tuple[str, ...]:
        return tuple(value for value in calls[_COLUMNS[kind]].unique() if forgotten.moment(kind, value))

    users = tuple(value for value in calls["user_id"].unique() if value and forgotten.is_user(value))
    return Identifiers(users, known(VISITOR), known(TOKEN))


def digests_of(key: str, ids: Identifiers) -> set[tuple[str, str]]:
    """The kinds and digests by which these identifiers are recognised, as ids and in texts."""
    digests = set[tuple[str, str]]()
    for kind, values in ((USER, ids.users), (VISITOR, ids.visitors), (TOKEN, ids.tokens), (TEXT, ids.texts)):
        for value in values:
            digests.add((kind, digest_of(key, kind, value)))
            for words in spellings(value):
                digests.add((f"{kind}/{len(words)}", digest_of(key, _WORDS, " ".join(words))))
                if len(words) > 1:
                    digests.add((_WORD, digest_of(key, _WORDS, _rarest(value, words))))
    for digits in ids.phones:
        kind = f"{PHONE}/{len(digits)}"
        digests.add((kind, digest_of(key, kind, digits)))
    return digests


def are_forgotten(calls: pl.DataFrame, forgotten: Forgotten) -> pl.Series:
    """Which of the calls, in the shape of `pd.api_calls`, are forgotten people's."""
    if not forgotten:
        return pl.repeat(value=False, n=calls.height, eager=True, dtype=pl.Boolean)
    users = [value for value in calls["user_id"].unique() if value and forgotten.is_user(value)]
    is_theirs = pl.col("user_id").is_in(users)
    for kind in (VISITOR, TOKEN):
        column = _COLUMNS[kind]
        moments = {value: forgotten.moment(kind, value) for value in calls[column].unique()}
        known = {value: at for value, at in moments.items() if at}
        if known:
            until = pl.col(column).replace_strict(known, default=None, return_dtype=pl.Datetime("ms", "UTC"))
            is_theirs |= (pl.col("ts") <= until).fill_null(value=False)
    if forgotten.has_calls:
        single = [value for value in calls["call_id"] if forgotten.moment(CALL, value.hex())]
        is_theirs |= pl.col("call_id").is_in(single)
    if forgotten.has_origins:
        is_theirs |= _come_before(calls, forgotten)
    return calls.select(is_theirs).to_series()


def _come_before(calls: pl.DataFrame, forgotten: Forgotten) -> pl.Series:
    """Which calls without an id come from where a forgotten visitor's first calls came from, just before them."""
    guests = calls.select(
        "ip",
        "user_agent",
        is_guest=pl.all_horizontal(
            pl.col(name).str.strip_chars().str.to_lowercase().is_in(_NO_IDS) for name in ("visitor_id", "user_id")
        ),
        step=pl.col("ts").dt.epoch("ms") // _ORIGIN_MS,
    )
    came_from = guests.filter("is_guest").drop("is_guest").unique()
    theirs = [
        row for row in came_from.iter_rows() if forgotten.moment(ORIGIN, f"{row[0]}\0{row[1]}\0{row[2]}") is not None
    ]
    found = pl.DataFrame(theirs, schema=came_from.schema, orient="row").with_columns(is_theirs=True, is_guest=True)
    return guests.join(found, on=guests.columns, how="left", maintain_order="left")["is_theirs"].fill_null(value=False)


def named_in_calls(calls: pl.DataFrame, forgotten: Forgotten) -> Identifiers:
    """The forgotten people's identifiers that calls, in the shape of `pd.api_calls`, contain."""
    if not forgotten:
        return Identifiers()
    return merged(forgotten.named_in(calls[name]) for name in SEARCHED_COLUMNS)


def without_names(calls: pl.DataFrame, forgotten: Forgotten, ids: Identifiers) -> pl.DataFrame:
    """The calls with forgotten people's identifiers removed; `ids`: what `named_in_calls` says of them."""
    if not ids:
        return calls
    is_naming = calls.select(pl.any_horizontal(may_name(pl.col(name), ids) for name in SEARCHED_COLUMNS)).to_series()
    naming = calls.with_row_index(_ROW).filter(is_naming)
    if ids.visitors or ids.tokens:  # a device may have another owner by now
        cleaned = [clean_calls(row, forgotten.still_forgotten(ids, row["ts"][0])) for row in naming.iter_slices(1)]
    else:
        cleaned = [clean_calls(naming, ids)]
    rest = calls.with_row_index(_ROW).filter(~is_naming)
    return pl.concat([rest, *cleaned]).sort(_ROW).drop(_ROW)


def without_texts(rows: pl.DataFrame, columns: Iterable[str], forgotten: Forgotten) -> pl.DataFrame:
    """The rows with forgotten people's identifiers removed from these columns, which are text, or text as bytes."""
    cleaned = []
    for name in columns if forgotten else ():
        is_bytes = rows.schema[name] == pl.Binary()
        distinct = rows[name].drop_nulls().unique().to_list()
        texts = [value.decode("utf-8", "surrogateescape") for value in distinct] if is_bytes else distinct
        if not (ids := forgotten.named_in(pl.Series(map(_storable, texts), dtype=pl.String))):
            continue
        changed: dict[str | bytes, str | bytes] = {
            old: new.encode("utf-8", "surrogateescape") if is_bytes else new
            for old, text in zip(distinct, texts, strict=True)
            if (new := redacted(text, ids)) != text
        }
        if changed:
            values = [changed.get(value, value) for value in rows[name]]
            cleaned.append(pl.Series(name, values, dtype=rows.schema[name]))
    return rows.with_columns(cleaned)


def suppressed_reject(count: int, *, source: str, now: datetime) -> pl.DataFrame:
    """One reject that stands for this number of records of forgotten people, with nothing of their content."""
    detail = f"{count:,} record(s) of people who were forgotten (carat forget): none of their content is stored"
    error = RejectedRecordError(_REASON, detail)
    return reject_frame([reject_row(Line(0, b"", 0), error, source=source, now=now)] if count else [])
