"""What user agents say of device, system and browser, and whether they are a machine's; each distinct one read once."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from app.rules.devices import BotRule, DeviceRule, DeviceRules

if TYPE_CHECKING:
    from ua_parser import PartialResult, Resolver

DEVICE_SCHEMA = pl.Schema(
    {name: pl.String() for name in ("user_agent", "device_type", "device_brand", "os", "browser", "bot_reason")}
)
_LONGEST = 2000  # characters of a user agent that are read: longer ones are no browser's, and matching takes time
_MODEL = (
    r"(?i)Android[ /][0-9.]+;(?: ?[a-z]{2}[-_][a-z]{2};)? ?[^();]*(?:\([^();]*\)[^();]*)?"
    r"(?:; [A-Z0-9]{4}\.[0-9]{6}\.[0-9]{3}[^();]*)?"
)
_BOT = "bot"
_UNKNOWN = ("", "Other", "Spider", "Generic", "Generic_Android", "Generic_Android_Tablet", "Generic_Inettv")


def read_user_agents(user_agents: pl.Series, rules: DeviceRules) -> pl.DataFrame:
    """One row per distinct user agent: `user_agent, device_type, device_brand, os, browser, bot_reason`.

    `bot_reason` is empty unless it is a machine's. An empty user agent is nobody's: a person's, on an unknown device,
    because servers and apps may send none for their shoppers.
    """
    distinct = pl.DataFrame({"user_agent": user_agents.unique()}).filter(pl.col("user_agent").is_not_null())
    read = distinct.with_columns(read=pl.col("user_agent").str.slice(0, _LONGEST))
    # Phones are called Bot, Butterfly or Spider: what the platform says of the model tells nothing of a machine.
    read = read.with_columns(without_model=pl.col("read").str.replace(_MODEL, "Android"))
    parsed = pl.DataFrame([_parse(text) for text in read["read"]], schema=_PARSED, orient="row")
    reason = pl.coalesce(_listed_reason(rules.bots), pl.when(pl.col("family") == "Spider").then(pl.lit("crawler")))
    return (
        read.hstack(parsed)
        .with_columns(device=(_named("brand", rules.brands) + " " + pl.col("family")).str.strip_chars_start())
        .with_columns(bot_reason=reason.fill_null(""))
        .with_columns(is_bot=pl.col("bot_reason") != "")
        .with_columns(
            device_type=pl.when("is_bot").then(pl.lit(_BOT)).otherwise(_device_type(rules.devices)),
            device_brand=pl.when(~pl.col("is_bot")).then(_named("brand", rules.brands)).fill_null(""),
            os=_named("system", rules.systems),
            browser=pl.when(~pl.col("is_bot")).then(_named("browser", rules.browsers)).fill_null(""),
            bot_reason=pl.when("is_bot").then("user agent: " + pl.col("bot_reason")).otherwise(pl.lit("")),
        )
        .select(DEVICE_SCHEMA.names())
    )


_PARSED = {"family": pl.String, "brand": pl.String, "system": pl.String, "browser": pl.String}


def _parse(user_agent: str) -> tuple[str, str, str, str]:
    found = _parser()(user_agent)
    device, system, browser = found.device, found.os, found.user_agent
    return (
        device.family if device else "",
        (device.brand or "") if device else "",
        system.family if system else "",
        browser.family if browser else "",
    )


@cache
def _parser() -> "Callable[[str], PartialResult]":
    """Reads one user agent. Imported here: most runs meet no user agent that was not read before."""
    from ua_parser import Domain, load_builtins  # noqa: PLC0415

    resolver: Resolver
    try:
        from ua_parser.regex import Resolver as FastResolver  # noqa: PLC0415

        resolver = FastResolver(load_builtins())
    except ImportError:  # no wheel of the accelerator for this machine: the same rules, some ten times slower
        from ua_parser.basic import Resolver as PlainResolver  # noqa: PLC0415

        resolver = PlainResolver(load_builtins())
    return lambda user_agent: resolver(user_agent, Domain.ALL)


def _listed_reason(bots: tuple[BotRule, ...]) -> pl.Expr:
    """The reason of the first rule that applies to a user agent, empty for people; null if none does."""
    return pl.coalesce(*(pl.when(_applies(bot)).then(pl.lit(bot.reason)) for bot in bots), pl.lit(None, pl.String))


def _applies(bot: BotRule) -> pl.Expr:
    applies = pl.col("without_model" if bot.reason else "read").str.contains(bot.pattern)
    if bot.unless:
        applies &= ~pl.col("read").str.contains(bot.unless)
    if bot.only_unknown:
        applies &= pl.col("family").is_in(_UNKNOWN) & pl.col("system").is_in(_UNKNOWN)
    return applies


def _device_type(rules: tuple[DeviceRule, ...]) -> pl.Expr:
    """The type that the first rule gives whose patterns all match."""
    matches = (
        pl.when(pl.all_horizontal(pl.col(column).str.contains(pattern) for column, pattern in rule.patterns)).then(
            pl.lit(rule.type)
        )
        for rule in rules
    )
    return pl.coalesce(*matches, pl.lit("other"))


def _named(column: str, names: tuple[tuple[str, str], ...]) -> pl.Expr:
    """What a value is called here; empty where it says nothing."""
    known = dict(names) | dict.fromkeys(_UNKNOWN, "")
    return pl.col(column).replace(list(known), list(known.values())) if known else pl.col(column)
