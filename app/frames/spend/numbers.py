"""The numbers of a file of advertising costs; the sign before the fractions is settled for the whole file.

`1,234` alone is either. What settles it: another number of the file that leaves no doubt, or a count, which has no
fractions.
"""

from collections.abc import Callable, Mapping

import polars as pl

from app.core.errors import SpendError

NUMBER = pl.Decimal(38, 6)
_OTHER = {".": ",", ",": "."}
_BLANKS = "\u0020\u00a0\u2009\u202f"
_GROUPING = f"{_BLANKS}'\u2019"
_BEFORE = rf"^([-+]?)[{_BLANKS}]*(?:\p{{Sc}}|[A-Za-z]{{1,3}}\.?\$?\p{{Sc}}?)[{_BLANKS}]*"
_AFTER = rf"[{_BLANKS}]*(?:\p{{Sc}}|[A-Z]{{3}}|kr\.?|zł)$"
_MASKED = r"^[<>≤≥]"
_EXPONENT = r"^[-+]?\d+(?:\.\d+)?[eE][-+]?\d{1,2}$"
# `1.234`: a sign once, between one to three digits and just three.
_EITHER = r"^[-+]?[1-9]\d{0,2}([.,])\d{3}$"


def without_dressing(texts: pl.Series) -> pl.Series:
    """Numbers without currency and blanks around and between; null where a value is masked, such as <5."""
    clean = pl.col(texts.name).str.strip_chars().str.replace("^\u2212", "-").str.replace("^\\((.+)\\)$", "-${1}")
    clean = clean.str.replace(_BEFORE, "${1}").str.replace(_AFTER, "")
    grouped = clean.str.contains(rf"^[-+]?\d{{1,3}}(?:[{_GROUPING}]\d{{3}})+(?:[.,]\d+)?$")
    clean = pl.when(grouped).then(clean.str.replace_all(rf"[{_GROUPING}]", "")).otherwise(clean)
    frame = texts.to_frame()
    return frame.select(pl.when(~pl.col(texts.name).str.contains(_MASKED)).then(clean)).to_series().rename(texts.name)


def settle_decimal(
    columns: Mapping[str, pl.Series],
    *,
    counts: frozenset[str],
    asked: str,
    points: bool,
    fits: Callable[[str], bool],
) -> str:
    """The sign before fractions of every number of a file: "." or ",".

    In: texts `without_dressing`. `counts`: columns whose numbers have no fractions. `points`: a program wrote the
    numbers, so that `1.234` is less than two. `fits`: whether the file's own totals are right with this sign.
    SpendError where there is doubt, or where two numbers contradict each other.
    """
    shown = {sign: _first_that_shows(columns, counts, sign) for sign in _OTHER}
    if asked:
        against = shown[_OTHER[asked]]
        if against and not shown[asked]:
            raise SpendError(f"--decimal {asked} cannot be: the file holds {against}")
        return asked
    if shown["."] and shown[","]:
        raise SpendError(
            f"{shown['.']} and {shown[',']} are written with different decimal signs. Which one is it? "
            "Say --decimal . or --decimal ,"
        )
    if found := [sign for sign, text in shown.items() if text]:
        return found[0]
    either = next((t for texts in columns.values() for t in texts.filter(texts.str.contains(_EITHER)).head(1)), "")
    if not either or (points and "." in either):
        return "."
    possible = [sign for sign in _OTHER if fits(sign)]
    if len(possible) == 1:
        return possible[0]
    raise SpendError(
        f"is {either} more than a thousand, or a number with three decimals? Nothing in the file tells. "
        "Say --decimal . or --decimal ,"
    )


def _first_that_shows(columns: Mapping[str, pl.Series], counts: frozenset[str], sign: str) -> str:
    """A text that can only be read with this sign before fractions; empty if there is none."""
    other = "\\" + _OTHER[sign]
    own = "\\" + sign
    both = rf"\d{other}\d.*{own}\d+$"
    groups = rf"^[-+]?\d{{1,3}}(?:{other}\d{{2,3}}){{2,}}$"
    for name, texts in columns.items():
        is_fraction = texts.str.contains(rf"^[-+]?\d*{own}\d+$") & ~texts.str.contains(_EITHER)
        is_group_of_count = texts.str.contains(rf"^[-+]?[1-9]\d{{0,2}}{other}\d{{3}}$") if name in counts else False
        shows = is_fraction | texts.str.contains(both) | texts.str.contains(groups) | is_group_of_count
        if found := texts.filter(shows.fill_null(value=False)).head(1).to_list():
            return str(found[0])
    return ""


def read_numbers(texts: pl.Series, sign: str) -> pl.Series:
    """Texts `without_dressing` as numbers; null where a text is none, which the caller compares."""
    group = "\\" + _OTHER[sign]
    point = "\\" + sign
    grouped = rf"[-+]?\d{{1,3}}(?:{group}\d{{2,3}})*{group}\d{{3}}(?:{point}\d+)?"
    is_number = texts.str.contains(rf"^(?:{grouped}|[-+]?\d+(?:{point}\d*)?|[-+]?{point}\d+)$")
    plain = texts.str.replace_all(group, "").str.replace(point, ".")
    exponents = texts.str.contains(_EXPONENT)
    return (
        pl.DataFrame({"text": texts, "plain": plain, "is_number": is_number, "is_exponent": exponents})
        .select(
            pl.when("is_exponent")
            .then(pl.col("text").cast(pl.Float64, strict=False).cast(NUMBER, strict=False))
            .when("is_number")
            .then(pl.col("plain").str.strip_suffix(".").cast(NUMBER, strict=False))
        )
        .to_series()
        .rename(texts.name)
    )
