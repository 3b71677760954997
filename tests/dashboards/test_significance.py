"""What the cards call real, drawn and chance is what SciPy and NumPy say, on visits that are made up."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import SecretStr
from scipy import stats

from app.dashboards.model import Library, load_library
from app.dashboards.sql import render, values_of
from app.settings import Settings
from app.warehouse import Warehouse, migrate, open_warehouse

pytestmark = pytest.mark.slow

_DAYS = 14  # in each of the two periods
_VISITS = """
INSERT INTO dwh.sessions (session_date, session_id, visitor_id, device_type, channel, furthest_step, orders, revenue)
SELECT
  toDate('2026-03-01') + number % 28 AS day, toString(number), toString(number),
  ['mobile', 'mobile', 'desktop', 'tablet'][1 + number % 4] AS device,
  concat('Channel ', toString(cityHash64(number, 'channel') % 12)),
  multiIf(luck < 25 + 20 * (device = 'desktop') + 10 * (day >= '2026-03-15'), 'purchase', luck < 200, 'cart', 'catalog'),
  luck < 25 + 20 * (device = 'desktop') + 10 * (day >= '2026-03-15') AS orders,
  orders * exp(4 + (cityHash64(number, 'amount') % 1000) / 400)
FROM (SELECT number, cityHash64(number, 'luck') % 1000 AS luck FROM numbers(9000))
WHERE cityHash64(number % 28, 'busy') % 5 < 4 OR number % 3 = 0
"""
_DEFINITION = re.compile(r"^  (\w+|\([\w, ]+\)) -> .*? AS (\w+)(?=,\n|\nSELECT)", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library()


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> Iterator[Warehouse]:
    settings = Settings(_env_file=None, warehouse=SecretStr(f"chdb://{tmp_path_factory.mktemp('significance')}"))
    with open_warehouse(settings, purpose="a test") as warehouse:
        migrate(warehouse, settings)
        warehouse.command(_VISITS)
        yield warehouse


@pytest.fixture(scope="module")
def visits(warehouse) -> pl.DataFrame:
    return warehouse.query(
        "SELECT session_date, (session_date >= '2026-03-15')::Bool AS is_now, device_type, channel, furthest_step, "
        "toInt64(orders) AS orders, toFloat64(revenue) AS revenue FROM dwh.sessions"
    )


@pytest.fixture
def asked(warehouse, library) -> Callable[..., pl.DataFrame]:
    """A card's result; `shown` replaces what its SQL says of a deviate, so that the deviate itself is seen."""

    def run(name: str, shown: str = "") -> pl.DataFrame:
        card, values = _card(library, name)
        sql = render(card, values)
        if shown:
            sql, count = re.subn(r"(\n  (?:z|\(z, looks\)) -> ).*( AS verdict)", rf"\g<1>{shown}\g<2>", sql)
            assert count == 1, name
        return warehouse.query(sql)

    return run


def _card(library: Library, name: str) -> tuple[Any, dict[str, Any]]:
    for dashboard in library.dashboards:
        for dashcard in dashboard.dashcards:
            if dashcard.card and dashcard.card.name == name:
                return dashcard.card, values_of(dashboard, dashcard, {})
    raise AssertionError(f"no card {name}")


def _deviate(frame: pl.DataFrame) -> float:
    return float(frame["Verdict"][-1])


def _of_p(p: float, sign: float) -> float:
    """The standard normal deviate with this two-sided probability."""
    return float(np.sign(sign) * stats.norm.isf(p / 2))


def test_one_name_has_one_formula_on_all_cards(library):
    found: dict[str, set[str]] = {}
    for card in library.cards:
        for match in _DEFINITION.finditer(card.sql):
            found.setdefault(match[2], set()).add(match[0])
    assert {name: len(texts) for name, texts in found.items() if name != "verdict"} == {
        "deviate": 1, "deviate_of_rates": 1, "variance_of_ratio": 1, "variance_of_rate": 1, "chance_of_so_few": 1,
        "in_words": 1,
    }  # fmt: skip
    assert len(found["verdict"]) == 2  # of one number, and of several that are looked at together


@pytest.mark.parametrize("degrees", [2, 6, 13, 27, 60])
@pytest.mark.parametrize("t", [-12.0, -2.2, 0.0, 0.4, 1.96, 3.5])
def test_deviate_has_the_probability_of_students_t(warehouse, library, degrees, t):
    definition = next(match[0] for match in _DEFINITION.finditer(_card(library, "Sessions")[0].sql))
    z = warehouse.scalar(f"WITH {definition.strip()} SELECT deviate({t}::Float64, {degrees})")
    wanted = 2 * stats.t.sf(abs(t), degrees)
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(wanted, rel=0.12, abs=0.004)
    assert np.sign(z) == np.sign(t)


@pytest.mark.parametrize(("card", "column"), [("Orders", "orders"), ("Revenue", "revenue")])
def test_total_is_real_when_it_is_by_days_and_by_orders(asked, visits, card, column):
    """The larger of the variance between days, as in a paired t test, and that of a compound Poisson number."""
    day = (pl.col("session_date") - pl.date(2026, 3, 1)).dt.total_days() % _DAYS
    days = visits.group_by(day.alias("day")).agg(
        pl.col(column).filter("is_now").sum().alias("now"),
        pl.col(column).filter(~pl.col("is_now")).sum().alias("earlier"),
    )
    paired = stats.ttest_rel(days["now"], days["earlier"])
    difference = days["now"].sum() - days["earlier"].sum()
    by_days = difference / paired.statistic if paired.statistic else 0.0
    t = difference / max(np.sqrt((visits[column] ** 2).sum()), by_days)
    expected = _of_p(2 * stats.t.sf(abs(t), _DAYS - 1), t)
    assert _deviate(asked(card, "toString(z)")) == pytest.approx(expected, rel=0.02)
    assert asked(card)["Verdict"][-1] == ("better" if expected > 1.96 else "within noise")


def test_rate_is_real_by_the_two_proportions_test(asked, visits):
    now, earlier = (visits.filter(pl.col("is_now") == flag)["orders"] > 0 for flag in (True, False))
    table = [[now.sum(), (~now).sum()], [earlier.sum(), (~earlier).sum()]]
    chi2 = stats.chi2_contingency(table, correction=False)
    assert _deviate(asked("Sessions that ended in an order", "toString(z)")) ** 2 == pytest.approx(chi2.statistic)


def test_average_order_is_real_by_welch(asked, visits):
    amounts = [visits.filter((pl.col("is_now") == flag) & (pl.col("orders") > 0))["revenue"] for flag in (True, False)]
    welch = stats.ttest_ind(*amounts, equal_var=False)
    assert _deviate(asked("Average order value", "toString(z)")) == pytest.approx(welch.statistic, rel=1e-3)
    per_visit = [visits.filter(pl.col("is_now") == flag)["revenue"] for flag in (True, False)]
    welch = stats.ttest_ind(*per_visit, equal_var=False)
    assert _deviate(asked("Revenue per visit", "toString(z)")) == pytest.approx(welch.statistic, rel=1e-3)


def test_median_order_is_real_by_mann_whitney(asked, visits):
    amounts = [visits.filter((pl.col("is_now") == flag) & (pl.col("orders") > 0))["revenue"] for flag in (True, False)]
    ranks = stats.mannwhitneyu(*amounts, method="asymptotic", use_continuity=False)
    z = _deviate(asked("Median order value", "toString(z)"))
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(ranks.pvalue, rel=1e-6)
    assert asked("Median order value")["Median order"].to_list() == pytest.approx(
        [float(np.sort(a)[len(a) // 2]) for a in reversed(amounts)]
    )


def test_step_is_real_only_when_it_is_among_all_steps(asked, visits):
    """Of five steps that are looked at, one in twenty is not called real by chance: Bonferroni."""
    rows = asked("Where losses changed most", "concat(toString(z), ' ', toString(looks))").rows(named=True)
    row = next(row for row in rows if row["On the way"] == "Cart → Checkout")
    z, looks = map(float, row["Verdict"].split())
    now, earlier = (
        visits.filter((pl.col("is_now") == flag) & (pl.col("furthest_step") != "catalog"))["orders"] > 0
        for flag in (True, False)
    )
    chi2 = stats.chi2_contingency([[now.sum(), (~now).sum()], [earlier.sum(), (~earlier).sum()]], correction=False)
    assert (z**2, looks) == (pytest.approx(chi2.statistic), 5)
    plain = {row["On the way"]: row["Verdict"] for row in asked("Where losses changed most").rows(named=True)}
    assert plain["Cart → Checkout"] == ("better" if chi2.pvalue * 5 < 0.05 and z > 0 else "within noise")


def _drawn(hits: np.ndarray, tries: np.ndarray) -> np.ndarray:
    """Rates drawn toward their mean by the spread between them that chance does not explain (method of moments)."""
    mean = hits.sum() / tries.sum()
    chance = mean * (1 - mean)
    between = (tries * (hits / tries - mean) ** 2).sum() - (len(tries) - 1) * chance
    spread = max(0.0, between / (tries.sum() - (tries**2).sum() / tries.sum()))
    return mean + (hits / tries - mean) * spread / (spread + (chance - spread) / tries)


@pytest.mark.parametrize(("card", "column"), [
    ("Step by step on each device", "device_type"), ("Step by step from each channel", "channel"),
])  # fmt: skip
def test_rates_are_drawn_toward_the_common_one_as_far_as_chance_explains_them(asked, visits, card, column):
    now = (
        visits.filter("is_now").group_by(column).agg(pl.len(), (pl.col("orders") > 0).sum().alias("hits")).sort(column)
    )
    result = asked(card)
    shown = result.sort(result.columns[0])["Visit to purchase"]
    assert shown.to_list() == pytest.approx(_drawn(now["hits"].to_numpy(), now["len"].to_numpy()).tolist())


def test_segment_is_compared_with_all_others(asked, visits):
    result = asked("Step by step on each device", "concat(toString(z), ' ', toString(looks))")
    said = dict(zip(result["Device"], result["Against the rest"], strict=True))
    now = visits.filter("is_now")
    own, rest = (now.filter((pl.col("device_type") == "desktop") == flag)["orders"] > 0 for flag in (True, False))
    chi2 = stats.chi2_contingency([[own.sum(), (~own).sum()], [rest.sum(), (~rest).sum()]], correction=False)
    z, looks = map(float, said["desktop"].split())
    assert (z**2, looks) == (pytest.approx(chi2.statistic), 3)
    assert dict(zip(result["Device"], asked("Step by step on each device")["Against the rest"], strict=True))[
        "desktop"
    ] == ("better" if chi2.pvalue * 3 < 0.05 else "within noise")


@pytest.mark.parametrize(("few", "expected"), [(0, 0.2), (0, 3.0), (2, 9.5), (30, 50.0), (4, 1.3)])
def test_chance_of_so_few_orders_is_poissons(warehouse, library, few, expected):
    sql = _card(library, "Much seen, little bought")[0].sql
    definition = next(match[0] for match in _DEFINITION.finditer(sql) if match[2] == "chance_of_so_few")
    chance = warehouse.scalar(f"WITH {definition.strip()} SELECT chance_of_so_few({few}, {expected}::Float64)")
    assert chance == pytest.approx(stats.poisson.cdf(few, expected))


def test_gap_costs_what_the_best_rate_would_bring(asked, visits):
    now = visits.filter("is_now")
    rates = dict(now.group_by("device_type").agg((pl.col("orders") > 0).mean()).iter_rows())
    mobile = now.filter(pl.col("device_type") == "mobile")
    rows = asked("What the gap to the best device costs").rows(named=True)
    row = next(row for row in rows if (row["Device"], row["On the way"]) == ("mobile", "Visit → Purchase"))
    missing = (max(rates.values()) - rates["mobile"]) * mobile.height
    assert row["Best device"] == max(rates, key=lambda device: rates[device])
    assert row["Orders missing"] == pytest.approx(missing)
    assert row["Revenue missing"] == pytest.approx(missing * mobile["revenue"].sum() / mobile["orders"].sum())
    assert [row["Revenue missing"] for row in rows] == sorted((row["Revenue missing"] for row in rows), reverse=True)
