"""Costs of campaigns beside the sessions that they brought: how these find each other, and what the audit says if not."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from app.contracts import SESSIONS, SPEND_FILES, SPEND_READINGS
from app.core.errors import SettingsError
from app.warehouse import migrate

DAY = date(2026, 11, 1)
READ_AT = datetime(2026, 11, 5, tzinfo=UTC)
_UNSAID = {pl.String(): "", pl.Boolean(): False}


def rows_of(table, *rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of a contract in which what is not said is null, or empty."""
    nullable = {column.name for column in table.written if column.is_nullable}
    filled = [
        {
            name: row.get(name, None if name in nullable else _UNSAID.get(dtype, 0))
            for name, dtype in table.schema.items()
        }
        for row in rows
    ]
    return pl.DataFrame(filled, schema=table.schema, orient="row")


@pytest.fixture
def spend(warehouse):
    """Stores costs of campaigns on DAY, as one reading: dicts of columns of `etl.spend_readings`."""

    def store(*costs: dict[str, Any]) -> None:
        stamp = {"reading_id": "r", "file_id": "f", "exported_at": READ_AT, "read_at": READ_AT}
        common = {
            "spend_date": DAY, "platform": "google", "level": "campaign", "currency": "EUR", "converted_to": "EUR", **stamp,
        }  # fmt: skip
        rows = [common | cost | {"amount_original": cost.get("amount")} for cost in costs]
        warehouse.insert(SPEND_READINGS, rows_of(SPEND_READINGS, *rows))
        warehouse.insert(
            SPEND_FILES,
            rows_of(SPEND_FILES, stamp | {name: [] for name in ("platforms", "accounts", "currencies", "notes")}),
        )

    return store


@pytest.fixture
def came(warehouse):
    """Stores sessions on DAY, each with an order of 10."""

    def store(*sessions: dict[str, Any]) -> None:
        common = {"session_date": DAY, "source": "google", "medium": "cpc", "orders": 1, "revenue": Decimal(10)}
        rows = [
            common
            | {"session_id": f"{number:016x}-1", "visitor_id": str(number), "started_at": READ_AT, "ended_at": READ_AT}
            | session
            for number, session in enumerate(sessions)
        ]
        warehouse.insert(SESSIONS, rows_of(SESSIONS, *rows))

    return store


def campaigns(warehouse) -> list[tuple]:
    """Campaign, how it was matched, cost, sessions and revenue."""
    return sorted(
        warehouse.query(
            "SELECT platform, campaign_id, campaign, matched_by, toFloat64(spend) AS spend, sessions, toFloat64(revenue) AS revenue "
            "FROM dwh.campaigns"
        ).iter_rows(),
        key=str,
    )


def audit(warehouse) -> dict[str, list[dict[str, Any]]]:
    rows = warehouse.query(
        "SELECT * FROM dwh.campaign_audit ORDER BY kind, platform, campaign, utm_campaign"
    ).to_dicts()
    return {kind: [row for row in rows if row["kind"] == kind] for kind in {row["kind"] for row in rows}}


def with_aliases(warehouse, settings, folder, text: str) -> None:
    (folder / "campaigns.toml").write_text(text)
    migrate(warehouse, settings.model_copy(update={"campaigns": folder / "campaigns.toml"}))


RINGS = {"campaign_id": "12", "campaign": "Gold Rings", "amount": Decimal(100), "clicks": 40}


@pytest.mark.parametrize(
    ("session", "how"),
    [
        ({"utm_id": "12", "utm_campaign": "whatever"}, "id"),
        ({"utm_campaign": "12"}, "id"),
        ({"utm_campaign": " gold  RINGS "}, "name"),
        ({"utm_campaign": "GoldRings"}, "name"),
    ],
)
def test_a_session_finds_its_campaign_by_its_id_then_by_its_name(warehouse, spend, came, session, how):
    spend(RINGS)
    came(session)
    assert campaigns(warehouse) == [("google", "12", "Gold Rings", how, 100, 1, 10)]
    assert audit(warehouse) == {}


def test_an_alias_finds_the_campaign_of_its_platform_only(warehouse, settings, spend, came, tmp_path):
    spend(RINGS, RINGS | {"platform": "meta"})
    came({"utm_campaign": "gr-2026"}, {"utm_campaign": "GR-2026", "source": "fb", "medium": "paid_social"})
    with_aliases(
        warehouse, settings, tmp_path,
        '[[alias]]\nplatform = "google"\nutm_campaign = "gr-2026"\ncampaign = "gold rings"\n',
    )  # fmt: skip
    assert campaigns(warehouse) == [
        ("google", "12", "Gold Rings", "alias", 100, 1, 10),
        ("meta", "", "GR-2026", "none", None, 1, 10),
        ("meta", "12", "Gold Rings", "", 100, 0, 0),
    ]


def test_a_source_that_the_shop_names_is_a_platforms(warehouse, settings, spend, came, tmp_path):
    spend(RINGS)
    came({"source": "adw", "utm_source": "adw", "utm_id": "12"})
    (row,) = audit(warehouse)["unknown_source"]
    assert (row["sessions"], row["fix"]) == (
        1,
        'add to CARAT_CAMPAIGNS: [[source]] utm_source = "adw" platform = "NAME"',
    )
    with_aliases(warehouse, settings, tmp_path, '[[source]]\nutm_source = "ADW"\nplatform = "google"\n')
    assert campaigns(warehouse) == [("google", "12", "Gold Rings", "id", 100, 1, 10)]
    assert audit(warehouse) == {}


def test_costs_without_sessions_and_sessions_without_costs_stay_and_no_unknown_cost_is_zero(warehouse, spend, came):
    spend(RINGS, RINGS | {"campaign_id": "13", "campaign": "Silver", "amount": None})
    came({"utm_campaign": "unknown"}, {"source": "bing", "medium": "cpc"})
    assert campaigns(warehouse) == [
        ("google", "", "unknown", "none", None, 1, 10),
        ("google", "12", "Gold Rings", "", 100, 0, 0),
        ("google", "13", "Silver", "", None, 0, 0),
        ("microsoft", "", "", "platform", None, 1, 10),
    ]


def test_a_click_id_alone_matches_the_platform_and_no_cost_is_divided_among_campaigns(warehouse, spend, came):
    spend(RINGS)
    came({"click_id": "Cj0"}, {"utm_id": "12"})
    assert campaigns(warehouse) == [
        ("google", "", "", "platform", None, 1, 10),
        ("google", "12", "Gold Rings", "id", 100, 1, 10),
    ]


def test_sessions_that_no_ad_brought_are_not_there(warehouse, spend, came):
    spend(RINGS)
    came({"medium": "organic"}, {"source": "(direct)", "medium": "(none)"}, {"utm_id": "12", "is_bot": True})
    assert campaigns(warehouse) == [("google", "12", "Gold Rings", "", 100, 0, 0)]


def test_costs_of_days_before_the_first_session_say_nothing_of_sessions(warehouse, spend, came):
    spend(RINGS | {"spend_date": DAY - timedelta(days=9)})
    came({"medium": "organic"})
    assert campaigns(warehouse) == [("google", "12", "Gold Rings", "", 100, None, None)]
    assert audit(warehouse) == {}


def test_ads_are_added_up_to_their_campaign(warehouse, spend, came):
    ad = RINGS | {"level": "ad", "ad_group_id": "1", "amount": Decimal("1.50")}
    spend(ad | {"ad_id": "1"}, ad | {"ad_id": "2"})
    came({"utm_id": "12", "utm_content": "1"})
    assert campaigns(warehouse) == [("google", "12", "Gold Rings", "id", 3, 1, 10)]


def test_a_name_that_two_campaigns_have_means_the_one_that_cost_something_that_day(warehouse, spend, came):
    spend(RINGS, RINGS | {"campaign_id": "99", "spend_date": DAY - timedelta(days=1)})
    came({"utm_campaign": "gold rings"})
    assert ("google", "12", "Gold Rings", "name", 100, 1, 10) in campaigns(warehouse)


def test_a_name_that_two_campaigns_of_a_day_have_means_none_and_is_a_collision(warehouse, spend, came):
    spend(RINGS, RINGS | {"campaign_id": "99", "amount": Decimal(50)})
    came({"utm_campaign": "Gold rings"})
    assert campaigns(warehouse) == [
        ("google", "", "Gold rings", "none", None, 1, 10),
        ("google", "12", "Gold Rings", "", 100, 0, 0),
        ("google", "99", "Gold Rings", "", 50, 0, 0),
    ]
    (row,) = audit(warehouse)["name_collision"]
    assert (row["campaign_id"], row["money_at_risk"], row["sessions"]) == ("12, 99", Decimal(150), 1)
    assert "utm_id={campaignid}" in row["fix"]


def test_a_campaign_whose_sessions_name_it_otherwise_is_not_linked_and_an_alias_is_proposed(warehouse, spend, came):
    spend(RINGS, RINGS | {"campaign_id": "13", "campaign": "Silver", "amount": Decimal(7)})
    came({"utm_campaign": "gold_rings"}, {"utm_id": "77"})
    found = audit(warehouse)
    gold, silver = found["not_linked"]
    assert (gold["money_at_risk"], gold["utm_campaign"]) == (Decimal(100), "gold_rings")
    assert gold["fix"] == (
        'add to CARAT_CAMPAIGNS: [[alias]] platform = "google" utm_campaign = "gold_rings" campaign = "12"'
    )
    assert (silver["money_at_risk"], silver["fix"]) == (Decimal(7), "add to its links: utm_campaign=Silver&utm_id=13")
    assert [row["utm_campaign"] for row in found["unknown_campaign"]] == ["", "gold_rings"]


def test_a_platform_whose_links_name_no_campaign_is_told_once_with_all_its_money(warehouse, spend, came):
    spend(RINGS, RINGS | {"campaign_id": "13", "amount": Decimal(7)})
    came({"click_id": "Cj0"})
    found = audit(warehouse)
    (row,) = found["no_tagged_sessions"]
    assert (row["money_at_risk"], set(found)) == (Decimal(107), {"no_tagged_sessions"})
    assert "utm_id={campaignid}" in row["fix"]


def test_a_platform_that_has_no_file_of_its_own_is_known_by_its_costs(warehouse, spend, came):
    spend(RINGS | {"platform": "podcast", "campaign_id": ""})
    came({"source": "podcast", "utm_campaign": "Gold Rings"})
    assert campaigns(warehouse) == [("podcast", "", "Gold Rings", "name", 100, 1, 10)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[alias]]\nplatform = "google"\nutm_campaign = ""\ncampaign = "a"\n', "campaigns.toml:3: alias.utm_campaign: must not be empty"),
        ('[[alias]]\nutm_campaign = "a"\ncampaign = "a"\n', "alias.platform: missing: the platform whose campaign it is"),
        ('[[alias]]\nplatform = "a"\nutm_campaign = "A"\ncampaign = "b"\n[[alias]]\nplatform = "a"\nutm_campaign = "a"\ncampaign = "c"\n',
         "campaigns.toml:7: alias.utm_campaign: 'a' of a has an alias already"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_aliases_is_told_with_file_line_and_key(warehouse, settings, tmp_path, text, problem):
    with pytest.raises(SettingsError) as refused:
        with_aliases(warehouse, settings, tmp_path, text)
    assert problem in str(refused.value)
