"""Rows of platforms' APIs as connectors write them: other people's files, each with its own sum."""

from decimal import Decimal

import polars as pl
import pytest

from tests.support.exports import understand_file
from tests.support.paths import FIXTURES

FIVETRAN = FIXTURES / "corpora" / "fivetran-ad-reporting"
POSTHOG = FIXTURES / "corpora" / "posthog-marketing"

# File, platform, level, rows after adding up, the column of its costs, and in how many parts of the currency,
# which some do not say.
SEEDS = [
    (FIVETRAN / "google_ads_campaign_stats_data.csv", "google", "campaign", 16, "cost_micros", 1_000_000, "USD"),
    (FIVETRAN / "tiktok_campaign_report_hourly_data.csv", "tiktok", "campaign", 4, "SPEND", 1, "USD"),
    (
        FIVETRAN / "pinterest_campaign_report_data.csv",
        "pinterest",
        "campaign",
        5,
        "spend_in_micro_dollar",
        1_000_000,
        "USD",
    ),
    (
        FIVETRAN / "linkedin_ad_analytics_by_campaign_data.csv",
        "linkedin",
        "campaign",
        20,
        "cost_in_local_currency",
        1,
        "USD",
    ),
    (FIVETRAN / "microsoft_ads_ad_performance_daily_report_data.csv", "microsoft", "ad", None, "spend", 1, ""),
    (FIVETRAN / "facebook_ads_basic_ad_data.csv", "meta", "ad", None, "spend", 1, "USD"),
    (POSTHOG / "bing_campaign_performance_report.csv", "microsoft", "campaign", 14, "spend", 1, ""),
    (POSTHOG / "linkedin_campaign_stats.csv", "linkedin", "campaign", 12, "cost_in_usd", 1, ""),
]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed[0].stem)
def test_what_connectors_write_is_understood_to_the_last_millionth(seed):
    path, platform, level, rows, column, parts, currency = seed
    found = understand_file(path, currency=currency)
    written = pl.read_csv(path, infer_schema=False)[column].cast(pl.Decimal(38, 8)).sum() / parts
    assert found.rows["amount"].sum() == written.quantize(Decimal("0.000001"))
    assert (found.platform.name, set(found.rows["level"])) == (platform, {level})
    assert rows in {None, found.rows.height}
