"""An export of advertising costs as rows of one day and level each.

Whatever a file leaves open is decided once for all of it; where it cannot be, SpendError asks the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import polars as pl

from app.core.errors import SpendError
from app.frames.spend.days import find_days, is_day, parse_day, settle_order
from app.frames.spend.layout import Line, choose_layout, find_layouts, find_platform
from app.frames.spend.levels import added_up, longest_span, spread, with_level, without_subtotals
from app.frames.spend.measures import with_numbers
from app.frames.spend.numbers import NUMBER
from app.frames.spend.table import ExportTable, day_field, require_all_rows, says_nothing, take_apart
from app.rules.ad_platform import TEXT_FIELDS, Platform, plain

_KEY = (
    "spend_date", "platform", "account", "campaign_id", "campaign", "ad_group_id", "ad_group", "ad_id", "ad", "level",
    "currency", "time_zone",
)  # fmt: skip
_CODE = r"^[A-Z]{3}$"
_BRACKETS = r"^\[(.*)\]$"
_LONGEST_SPAN_DAYS = 400


@dataclass(frozen=True)
class Answers:
    """What the user says of a file, where it says nothing itself; empty where nothing is said."""

    platform: str = ""
    account: str = ""
    currency: str = ""
    decimal: str = ""
    dates: str = ""
    time_zone: str = ""
    spreads: bool = False


@dataclass(frozen=True)
class Understood:
    """What a file says.

    `rows`: `_KEY`, then amount, clicks, impressions, conversions, value, is_spread; of a grain "order" instead what
    `read_orders` gives. `exported_at` is the text of the file about its own age. `notes` are for a person to read.
    """

    platform: Platform
    language: str
    rows: pl.DataFrame
    decimal: str = "."
    order: str = ""
    checked: str = ""
    exported_at: str = ""
    notes: tuple[str, ...] = ()


def understand(
    lines: Sequence[Line], answers: Answers, platforms: Sequence[Platform], *, today: date, points: bool
) -> Understood:
    """What the lines of a file say, by what the user answers; SpendError asks what is left open.

    `points`: the numbers were not written by people, so that a single point stands before fractions.
    """
    layouts = list(find_layouts(lines, platforms))
    if says_nothing(lines, platforms) and not any(layout.at + 1 < len(lines) for layout in layouts):
        platform = find_platform(answers.platform or "meta", platforms) or platforms[0]
        return Understood(platform, "", pl.DataFrame(), notes=("the platform says that it has no data",))
    layout = choose_layout(layouts, platform=answers.platform, platforms=platforms)
    table = take_apart(lines, layout)
    require_all_rows(table)
    if table.rows.is_empty():
        return Understood(layout.platform, layout.language, pl.DataFrame(), notes=("it holds no rows",))
    order = _settle_order(table, answers, today=today)
    dated = _with_days(table, answers, order)
    understood = _understood(table, dated, answers, platforms, points=points)
    return replace(understood, order=order)


def _understood(
    table: ExportTable, dated: pl.DataFrame, answers: Answers, platforms: Sequence[Platform], *, points: bool
) -> Understood:
    numbers, sign, checked = with_numbers(table, dated, decimal=answers.decimal, points=points)
    known = numbers.with_columns(_texts(table, answers, platforms)).with_columns(
        currency=_currency(table, answers), time_zone=_time_zone(table, answers)
    )
    _require_currency(known, answers, table)
    notes = table.notes
    if table.preamble.get("incomplete", "").lower() in {"true", "yes", "wahr"}:
        notes.append("the platform says that its last days are incomplete: read them again later")
    if table.platform.file.grain == "order":
        rows = read_orders(known)
    else:
        rows, of_levels = _at_one_level(known)
        notes += of_levels
    return Understood(
        table.platform,
        table.layout.language,
        rows,
        sign,
        checked=checked,
        exported_at=table.preamble.get("exported_at", ""),
        notes=tuple(notes),
    )


def _at_one_level(known: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    days = spread(known.filter(~pl.all_horizontal(pl.col(n).is_null() for n in ("amount", "clicks", "impressions"))))
    rows = without_subtotals(with_level(days))
    notes = []
    if left_out := days.height - rows.height:
        notes.append(f"{left_out} rows that sum up finer ones are not counted")
    if rows["is_spread"].any():
        notes.append("rows of several days are divided evenly: is_spread")
    return added_up(rows, _KEY), notes


# ---- days ----------------------------------------------------------------------------------------------------------


def _range_of_file(table: ExportTable) -> list[str]:
    """The texts of days that stand before the headers as the range of the report."""
    return find_days([*table.opening, table.preamble.get("days", "")])


def _settle_order(table: ExportTable, answers: Answers, *, today: date) -> str:
    rows, first = table.rows, day_field(table.rows.columns)
    texts = {text for name in {first, "ends"} & set(rows.columns) for text in rows[name].drop_nulls().unique()}
    said = _range_of_file(table)
    others = [*table.opening, *said, table.preamble.get("exported_at", "")]
    return settle_order(
        texts or said,
        others=others,
        asked=answers.dates,
        language=table.layout.language,
        is_daily=table.preamble.get("aggregation", "").lower() == "daily",
        today=today,
    )


def _with_days(table: ExportTable, answers: Answers, order: str) -> pl.DataFrame:
    """The rows with `starts` and `ends` as days; SpendError where a row has none, or several without --spread."""
    columns = table.rows.columns
    first = day_field(columns)
    last = "ends" if first == "starts" and "ends" in columns else first
    if first:
        missing = table.rows.filter(
            pl.col(first).is_null() | ~pl.col(first).map_elements(is_day, return_dtype=pl.Boolean)
        )
        if missing.height:
            raise SpendError(f"line {missing['line'][0]} has no day. Which day is it of? Export the report by day")
        texts = {text for name in {first, last} for text in table.rows[name].drop_nulls().unique()}
        days = {text: parse_day(text, order) for text in texts}
        dated = table.rows.with_columns(
            starts=pl.col(first).replace_strict(days, return_dtype=pl.Date),
            ends=pl.col(last).replace_strict(days, return_dtype=pl.Date),
        )
    else:
        dated = _of_the_range(table, [parse_day(text, order) for text in _range_of_file(table)])
    return _require_days(dated, answers)


def _of_the_range(table: ExportTable, days: Sequence[date | None]) -> pl.DataFrame:
    """Rows that name no day, each of the whole range that stands before the headers."""
    known = [day for day in days if day]
    if "period" in table.rows.columns or not known:
        raise SpendError(
            "has no column of days. Which day is each cost of? Export the report with a column of days "
            "(Google: segment by day; Meta: breakdown by day)"
        )
    return table.rows.with_columns(starts=pl.lit(min(known)), ends=pl.lit(max(known)))


def _require_days(dated: pl.DataFrame, answers: Answers) -> pl.DataFrame:
    backwards = dated.filter(pl.col("ends") < pl.col("starts"))
    if backwards.height:
        raise SpendError(f"line {backwards['line'][0]} ends on {backwards['ends'][0]}, before it starts")
    span = longest_span(dated)
    if span and not answers.spreads:
        raise SpendError(
            f"line {span[2]} is of several days, {span[0]} to {span[1]}. Which day is its cost of? Export the report "
            "by day, or say --spread to divide such rows evenly"
        )
    longest = dated.select((pl.col("ends") - pl.col("starts")).max()).item()
    if longest > timedelta(days=_LONGEST_SPAN_DAYS):
        raise SpendError(f"a row of {longest.days + 1} days is too long to be divided. Export the report by day")
    return dated


# ---- texts ---------------------------------------------------------------------------------------------------------


def _texts(table: ExportTable, answers: Answers, platforms: Sequence[Platform]) -> list[pl.Expr]:
    """The names and ids, empty where there are none; ids of Microsoft stand in brackets."""
    columns = table.rows.columns
    own = {
        name: pl.col(name).fill_null("").str.strip_chars() if name in columns else pl.lit("") for name in TEXT_FIELDS
    }
    ids = [name for name in TEXT_FIELDS if name.endswith("_id") and name in columns]
    own |= {name: own[name].str.replace(_BRACKETS, "${1}").str.strip_suffix(".0") for name in ids}
    account = pl.when(own["account_id"] != "").then(own["account_id"]).otherwise(own["account"])
    if answers.account:
        _require_one_account(table, answers.account)
    own["account"] = pl.lit(answers.account) if answers.account else account
    own["platform"] = _platform_name(table, answers, platforms)
    return [value.alias(name) for name, value in own.items() if name not in {"currency", "time_zone"}]


def _require_one_account(table: ExportTable, account: str) -> None:
    named = next((name for name in ("account_id", "account") if name in table.rows.columns), "")
    if named and table.rows[named].drop_nulls().n_unique() > 1:
        raise SpendError(f"--account {account}: the file itself names several accounts. Leave it out")


def _platform_name(table: ExportTable, answers: Answers, platforms: Sequence[Platform]) -> pl.Expr:
    if not table.platform.file.is_generic:
        return pl.lit(table.platform.name)
    if answers.platform:
        return pl.lit(_name_of(answers.platform, platforms))
    names = {text: _name_of(text, platforms) for text in table.rows["platform"].drop_nulls().unique()}
    if table.rows["platform"].null_count():
        line = table.rows.filter(pl.col("platform").is_null())["line"][0]
        raise SpendError(f"line {line} names no platform. Which one is it? Fill in the column, or say --platform NAME")
    return pl.col("platform").replace_strict(names, return_dtype=pl.String)


def _name_of(text: str, platforms: Sequence[Platform]) -> str:
    """What dwh.spend calls a platform that is named like this."""
    found = find_platform(text, [platform for platform in platforms if not platform.file.is_generic])
    return found.name if found else plain(text)


def _currency(table: ExportTable, answers: Answers) -> pl.Expr:
    said = (
        pl.col("currency").str.strip_chars().str.to_uppercase()
        if "currency" in table.rows.columns
        else pl.lit(None, pl.String)
    )
    others = (table.layout.currency, answers.currency.upper())
    return pl.coalesce(said, *(pl.lit(code or None, pl.String) for code in others)).alias("currency")


def _require_currency(known: pl.DataFrame, answers: Answers, table: ExportTable) -> None:
    unknown = known.filter(pl.col("currency").is_null())
    if unknown.height:
        raise SpendError(
            "does not say its currency. Which one is it in? Say --currency EUR, or add the column to the report"
        )
    wrong = known.filter(~pl.col("currency").str.contains(_CODE))
    if wrong.height:
        raise SpendError(
            f"line {wrong['line'][0]}: {wrong['currency'][0]!r} is not a currency code such as EUR. Say --currency EUR"
        )
    said = set(known["currency"].unique())
    if (
        answers.currency
        and said != {answers.currency.upper()}
        and ("currency" in table.rows.columns or table.layout.currency)
    ):
        raise SpendError(
            f"--currency {answers.currency.upper()}: the file itself says {', '.join(sorted(said))}. Leave it out"
        )


def _time_zone(table: ExportTable, answers: Answers) -> pl.Expr:
    """The zone whose days these are; empty where each account has its own and neither file nor user says it."""
    of_platform = table.platform.file.time_zone
    known = "" if of_platform == "account" else of_platform
    said = answers.time_zone or table.preamble.get("time_zone", "") or known
    if "time_zone" in table.rows.columns:
        return pl.col("time_zone").fill_null(said).alias("time_zone")
    return pl.lit(said).alias("time_zone")


# ---- orders --------------------------------------------------------------------------------------------------------


def read_orders(known: pl.DataFrame) -> pl.DataFrame:
    """One row per transaction of a network that is paid by order.

    `order_date, platform, account, transaction_id, order_id, publisher_id, publisher, status, currency, cost` (the
    commission and the network's fee), `sale`, `time_zone`.
    """
    fee = pl.col("fee") if "fee" in known.columns else pl.lit(None, NUMBER)
    orders = known.select(
        "line",
        "platform",
        "account",
        "transaction_id",
        "order_id",
        "currency",
        "time_zone",
        order_date="starts",
        publisher_id="campaign_id",
        publisher="campaign",
        status=pl.col("status").str.to_lowercase(),
        cost=pl.when(pl.col("amount").is_not_null()).then(pl.col("amount") + fee.fill_null(0)),
        sale="value",
    ).with_columns(transaction_id=pl.when(pl.col("transaction_id") == "").then("order_id").otherwise("transaction_id"))
    unknown = orders.filter(pl.col("transaction_id") == "")
    if unknown.height:
        raise SpendError(
            f"line {unknown['line'][0]} has neither a transaction nor an order. Add these columns to the report"
        )
    twice = orders.filter(pl.struct("account", "transaction_id").is_duplicated())
    if twice.height:
        raise SpendError(
            f"line {twice['line'][-1]}: the transaction {twice['transaction_id'][0]} stands there twice. Which "
            "row counts?"
        )
    return orders.drop("line")
