"""Finds the table in an export of advertising costs: whose it is, where its headers are, and which column is what."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.core.errors import SpendError
from app.core.suggestions import did_you_mean
from app.rules.ad_platform import Platform, header_currency, plain

_SEARCHED = 60  # lines in which the headers must be
_AMOUNTS = ("amount", "amount_micros")
_FEWEST = 2


@dataclass(frozen=True)
class Line:
    """A line of an export: its number in the file, and its cells."""

    number: int
    cells: list[str]

    @property
    def label(self) -> str:
        """The first cell that is not empty, by which totals and footers are told from rows."""
        return next((cell.strip() for cell in self.cells if cell.strip()), "")


@dataclass(frozen=True)
class Layout:
    """Whose export it is and which column is what.

    `at`: the headers' position among the lines. `columns`: positions of fields. `currency`: what a header says; empty
    if none does. `marks`: how much of it only this platform writes.
    """

    platform: Platform
    language: str
    at: int
    columns: Mapping[str, int]
    currency: str
    marks: int

    @property
    def worth(self) -> tuple[int, int, int]:
        return self.marks, len(self.columns), -self.at

    @property
    def level(self) -> str:
        """The finest level that has a column."""
        return next((level for level in ("ad", "ad_group") if {level, f"{level}_id"} & set(self.columns)), "campaign")


def find_platform(name: str, platforms: Iterable[Platform]) -> Platform | None:
    """The platform with this name, or that sessions call so."""
    word = plain(name)
    return next((p for p in platforms if word == p.name or word == plain(p.file.title) or word in p.file.sources), None)


def find_layouts(lines: Sequence[Line], platforms: Iterable[Platform]) -> Iterator[Layout]:
    """Every way to read the lines as a platform's export."""
    for at, line in enumerate(lines[:_SEARCHED]):
        headers = [plain(cell) for cell in line.cells]
        if len(set(headers) - {""}) < _FEWEST:
            continue
        for platform in platforms:
            marks = sum(platform.is_mark(header) for header in headers)
            marks += 2 * any(platform.opens(before.label) for before in lines[:at])
            layouts = (_layout(platform, language, at, headers, marks) for language in platform.headers)
            yield from (layout for layout in layouts if layout)


def choose_layout(layouts: Sequence[Layout], *, platform: str, platforms: Sequence[Platform]) -> Layout:
    """The layout that fits best; SpendError if it is not clear whose export it is.

    `platform`: what the user says; of a platform that has no file of its own, a plain table is read.
    """
    asked = find_platform(platform, platforms) if platform else None
    if platform:
        layouts = [
            layout
            for layout in layouts
            if layout.platform is asked or (layout.platform.file.is_generic and not layout.marks)
        ]
    if not layouts:
        raise SpendError(_no_table(platform, asked, platforms))
    own = [layout for layout in layouts if not layout.platform.file.is_generic]
    generic = _best([layout for layout in layouts if layout.platform.file.is_generic])
    marked = [layout for layout in own if layout.marks or asked]
    best = _best(marked)
    if best and not best.marks and generic and len(generic.columns) > len(best.columns):
        best = None
    if best:
        rivals = {layout.platform.name for layout in marked if layout.worth[:2] == best.worth[:2]}
        if len(rivals) == 1:
            return best
        raise SpendError(_whose(rivals))
    if generic and ("platform" in generic.columns or platform):
        return generic
    raise SpendError(_whose({layout.platform.name for layout in own}))


def _best(layouts: Sequence[Layout]) -> Layout | None:
    return max(layouts, key=lambda layout: layout.worth, default=None)


def _layout(platform: Platform, language: str, at: int, headers: Sequence[str], marks: int) -> Layout | None:
    """How a language's headers fit; those of API names and of columns that are left in English count as well."""
    columns: dict[str, int] = {}
    currency = ""
    fields = platform.headers[language]
    for field, names in fields.items():
        for name in names:
            found = [
                (at, code) for at, header in enumerate(headers) if (code := header_currency(header, name)) is not None
            ]
            if found:
                columns[field], code = found[0]
                currency = currency or code
                break
    has_costs = any(field in columns for field in _AMOUNTS)
    if not has_costs or len(columns) < _FEWEST:
        return None
    return Layout(platform, language, at, columns, currency, marks)


def _whose(names: Iterable[str]) -> str:
    among = f" ({', '.join(sorted(names))})" if names else ""
    return f"which platform is this from?{among} Say --platform NAME"


def _no_table(name: str, asked: Platform | None, platforms: Sequence[Platform]) -> str:
    own = [platform for platform in platforms if not platform.file.is_generic]
    if asked:
        return f"has no line of headers as {asked.file.title} writes them, with a cost and a day. Is it another report?"
    known = ", ".join(platform.name for platform in own)
    hint = did_you_mean(name, [platform.name for platform in own]) if name else ""
    return (
        f"has no line of headers with a cost and a day. {hint} Known are exports of {known}, and plain tables".replace(
            "  ", " "
        )
    )
