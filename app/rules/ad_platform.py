"""Advertising platforms as data: how their exports are written, and how sessions name them.

Each file of app/rules/platforms/ is one platform. Headers are compared without case and with any blanks as one;
`{currency}` in a header stands for a code such as EUR.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from app.rules.toml_file import LowerTexts, Pattern, RuleModel, Tables, Text, Texts, TomlFile, mistake

SHIPPED_PLATFORMS = Path(__file__).parent / "platforms"
DAY_FIELDS = ("day", "hour", "starts", "ends")
TEXT_FIELDS = (
    "platform", "account_id", "account", "campaign_id", "campaign", "ad_group_id", "ad_group", "ad_id", "ad",
    "currency", "time_zone", "transaction_id", "order_id", "status",
)  # fmt: skip
COUNT_FIELDS = ("clicks", "impressions")
MONEY_FIELDS = ("amount", "amount_micros", "fee", "value", "value_micros")
NUMBER_FIELDS = (*COUNT_FIELDS, *MONEY_FIELDS, "conversions")
FIELDS = (*DAY_FIELDS, "period", *TEXT_FIELDS, *NUMBER_FIELDS)
_SAYS_CURRENCY = "{currency}"
_BLANKS = re.compile(r"\s+")


def plain(text: str) -> str:
    """A header or label as it is compared: in lower case, blanks and apostrophes of any kind alike."""
    return _BLANKS.sub(" ", text.replace("\ufeff", "").replace("’", "'")).strip().casefold()  # noqa: RUF001


def header_currency(header: str, template: str) -> str | None:
    """Whether a header, as `plain` gives it, is this one: its currency, or an empty text where it says none."""
    if _SAYS_CURRENCY not in template:
        return "" if header == template else None
    before, _, after = template.partition(_SAYS_CURRENCY)
    code = header.removeprefix(before).removesuffix(after)
    is_so = header == f"{before}{code}{after}" and re.fullmatch("[a-z]{3}", code)
    return code.upper() if is_so else None


class TotalRow(RuleModel):
    """How a row with a total is labelled, and what it says of the sum of the rows: equal, at most it, or nothing.

    A total of a level counts as a limit in a report of a finer one, which need not have all of it.
    """

    pattern: Pattern
    check: Literal["equal", "at_most", "none"]
    level: Literal["", "campaign", "ad_group", "ad"] = ""


class Preamble(RuleModel):
    """What lines `Key: value` before the headers are called."""

    days: str = ""
    time_zone: str = ""
    rows: str = ""
    exported_at: str = ""
    incomplete: str = ""
    aggregation: str = ""


def _require_known_fields(headers: Mapping[str, Mapping[str, Texts]]) -> Mapping[str, Mapping[str, Texts]]:
    for language, fields in headers.items():
        for field in fields:
            if field not in FIELDS:
                raise mistake(f"is not a field. Choose from {', '.join(FIELDS)}", language, field)
    return {
        language: {field: _written(field, names) for field, names in fields.items()}
        for language, fields in headers.items()
    }


def _written(field: str, names: Texts) -> Texts:
    """The headers of a field as they are compared; any amount may have its currency after it."""
    headers = tuple(plain(name) for name in names)
    if field not in MONEY_FIELDS:
        return headers
    return headers + tuple(f"{header} ({_SAYS_CURRENCY})" for header in headers if _SAYS_CURRENCY not in header)


class _PlatformFile(RuleModel):
    title: Text
    headers: Annotated[dict[str, dict[str, Texts]], AfterValidator(_require_known_fields)] = Field(
        description="[headers.LANGUAGE] tables"
    )
    grain: Literal["day", "order"] = "day"
    time_zone: Text = "account"
    nulls: LowerTexts = ()
    empty: LowerTexts = ()
    marks: LowerTexts = ()
    openings: Texts = ()
    footers: Texts = ()
    sources: LowerTexts = ()
    tracking: str = ""
    is_generic: bool = False
    preamble: Preamble = Preamble()
    total: Tables[TotalRow] = ()


@dataclass(frozen=True)
class Platform:
    """A platform and its export; `name` is what dwh.spend calls it.

    `marks` are headers, `openings` first lines, that no other platform has. `time_zone`: of all its accounts, or
    "account" where each has its own. `is_generic`: a table of any platform.
    """

    name: str
    file: _PlatformFile

    @property
    def headers(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Per language and field the headers, the preferred first."""
        return self.file.headers

    @cached_property
    def nulls(self) -> frozenset[str]:
        """The words for a value that there is none of, in lower case."""
        return frozenset({"", *self.file.nulls})

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        return tuple(map(plain, self.file.marks))

    def is_mark(self, header: str) -> bool:
        return any(header_currency(header, mark) is not None for mark in self._marks)

    def opens(self, line: str) -> bool:
        """Whether the first line of a file is one that only this platform writes."""
        return any(re.fullmatch(opening, plain(line)) for opening in self.file.openings)

    def is_footer(self, line: str) -> bool:
        return any(re.fullmatch(footer, plain(line)) for footer in self.file.footers)

    def total_check(self, label: str, level: str) -> str | None:
        """What a row with this label says of the sum in a report of this level; None if it is no total."""
        total = next((total for total in self.file.total if re.search(total.pattern, plain(label))), None)
        if total and total.level and total.level != level:
            return "at_most"
        return total.check if total else None


@cache
def shipped_platforms() -> tuple[Platform, ...]:
    """Every platform of app/rules/platforms/, by name."""
    files = sorted(SHIPPED_PLATFORMS.glob("*.toml"))
    return tuple(
        Platform(path.stem, TomlFile.read(path, setting="app/rules/platforms").parse(_PlatformFile)) for path in files
    )
