from itertools import pairwise

import msgspec
import pytest

from app.demo.assortment import Assortment, assortment_of
from app.demo.catalog import MISSPELT_WORD, RIGHT_WORD, SORTS, Catalog, Listing
from app.demo.chance import seeded
from app.demo.plan import DemoPlan
from app.demo.shoppers import newcomer
from app.demo.visits import DailyIds, Visit

from .conftest import Month, moment_ms

PLAN = DemoPlan()


@pytest.fixture(scope="module")
def assortment() -> Assortment:
    return assortment_of(PLAN)


def catalog_versions(assortment: Assortment) -> list[Catalog]:
    return [assortment.catalog(version) for version in range(PLAN.days)]


def test_versions_are_the_same_in_whatever_order_they_are_asked_for(assortment: Assortment) -> None:
    in_order = catalog_versions(assortment)
    backwards = Assortment(PLAN)
    for version in reversed(range(PLAN.days)):
        catalog = backwards.catalog(version)
        assert catalog.ranked == in_order[version].ranked
        assert catalog.sold_out == in_order[version].sold_out


def test_a_version_derived_from_its_predecessor_equals_one_built_from_scratch(assortment: Assortment) -> None:
    for version in (5, 6, 12, 16, 25, 30):
        catalog = assortment.catalog(version)
        fresh = Catalog(catalog.ranked, sold_out=catalog.sold_out)
        assert {word: ids for word, ids in catalog.wording.words.items() if ids} == fresh.wording.words
        for sort in SORTS:
            for listing in (
                Listing(q="gold ring", sort=sort),
                Listing(section=("earrings",), material=("cubic zirconia", "pearl"), sort=sort),
                Listing(section=("rings", "pendants"), price_min=50, price_max=150, sort=sort),
            ):
                assert catalog.listing_response(listing, 1, 24) == fresh.listing_response(listing, 1, 24)
        for item in catalog.items[::50]:
            assert catalog.product_response(item.id) == fresh.product_response(item.id)


def test_new_items_are_listed_every_week_and_entered_the_day_before(assortment: Assortment) -> None:
    came = 0
    for version, (before, after) in enumerate(pairwise(catalog_versions(assortment)), 1):
        new = {item.id for item in after.items} - {item.id for item in before.items}
        assert new == {item.id for item in assortment.catalog_versions[version].listed}
        drafts = assortment.catalog_versions[version - 1].drafts
        assert new == {item.id for item in drafts}
        assert {item.created_at.date() for item in drafts} <= {PLAN.day(version - 1)}
        if new:
            assert set(after.found(Listing(sort="newest"))[: len(new)]) == new
        came += len(new)
    assert 20 <= came <= 30


def test_discontinued_items_are_hidden_a_day_before_they_are_deleted(assortment: Assortment) -> None:
    catalogs = catalog_versions(assortment)
    gone = {item_id: version for version in range(PLAN.days) for item_id in assortment.catalog_versions[version].hidden}
    assert 5 <= len(gone) <= 12
    for item_id, version in gone.items():
        hidden = catalogs[version]
        section = hidden.by_id[item_id].section
        assert item_id not in hidden.found(Listing(section=(section,)))
        assert item_id not in hidden.popular_by_section[section].choices
        assert msgspec.json.decode(hidden.product_response(item_id))["id"] == item_id
        assert item_id not in hidden.similar(item_id)
        if version + 1 < PLAN.days:
            assert item_id not in catalogs[version + 1].by_id
            assert PLAN.day_starts_ms(version + 1) < assortment.catalog_versions[version + 1].deleted[item_id]


def test_a_title_and_a_material_are_corrected(assortment: Assortment) -> None:
    first, last = assortment.catalog(0), assortment.catalog(PLAN.days - 1)
    differing = [
        (item, last.by_id[item.id])
        for item in first.items
        if item.id in last.by_id and item.description != last.by_id[item.id].description
    ]
    assert len(differing) == 2
    retitled = next(pair for pair in differing if pair[0].title != pair[1].title)
    assert retitled[0].title.replace(MISSPELT_WORD, RIGHT_WORD) == retitled[1].title
    assert retitled[0].id not in first.found(Listing(q=f"{RIGHT_WORD}")) or retitled[0].section == "pendants"
    completed = next(pair for pair in differing if pair[0].material != pair[1].material)
    assert completed[0].material is None
    assert completed[0].id in last.found(Listing(section=("earrings",), material=("cubic zirconia",)))


def test_some_items_sell_out_and_come_back_and_others_never_do(assortment: Assortment) -> None:
    catalogs = catalog_versions(assortment)
    sold_out = {item_id: version for version, e in enumerate(assortment.catalog_versions) for item_id in e.sold_out}
    back = {
        item_id: next((later for later in range(version, PLAN.days) if item_id not in catalogs[later].sold_out), None)
        for item_id, version in sold_out.items()
    }
    assert len(back) > 15
    assert sum(version is None for version in back.values()) >= 3
    assert all(2 <= version - sold_out[item_id] <= 6 for item_id, version in back.items() if version is not None)
    assert sum(version is not None for version in back.values()) >= 8
    assert catalogs[0].sold_out - catalogs[-1].sold_out, "what was sold out from the start comes back as well"
    assert catalogs[0].sold_out & catalogs[-1].sold_out


def test_calls_show_items_only_while_they_are_listed(month: Month) -> None:
    assortment = assortment_of(month.plan)
    for record in sorted(month.records, key=moment_ms):
        response = record.get("response") or {}
        known = assortment.at(moment_ms(record)).by_id
        if isinstance(response.get("items"), list):
            assert {line.get("id", line.get("product_id")) for line in response["items"]} <= known.keys()
        if record["endpoint"].startswith("/api/v1/products/") and (record.get("status") or 200) < 400:
            assert int(record["endpoint"].split("/")[4]) in known


def test_new_items_are_viewed(month: Month) -> None:
    new = {item.id for version in assortment_of(month.plan).catalog_versions for item in version.listed}
    viewed = {int(r["endpoint"].split("/")[4]) for r in month.records if r["endpoint"].startswith("/api/v1/products/")}
    assert len(viewed & new) > len(new) / 2


def test_sold_out_items_cannot_be_added_to_the_cart(month: Month) -> None:
    assortment, refused = assortment_of(month.plan), 0
    for record in sorted(month.records, key=moment_ms):
        if (record["method"], record["endpoint"]) == ("POST", "/api/v1/cart/items"):
            is_sold_out = int(record["request"]["body"]["product_id"]) in assortment.at(moment_ms(record)).sold_out
            assert is_sold_out == (record.get("status") == 409)
            refused += is_sold_out
    assert refused > 3


def test_items_that_sold_out_in_the_cart_cannot_be_ordered(assortment: Assortment) -> None:
    version = next(number for number, version in enumerate(assortment.catalog_versions) if version.sold_out)
    night = PLAN.catalog_version_starts_ms(version)
    rng = seeded(1, "till")
    visit = Visit(
        rng, assortment, newcomer(rng), DailyIds(PLAN, version), night - 1, is_campaign=False, outage_ms=(0, 0)
    )
    visit.cart = {assortment.catalog_versions[version].sold_out[0]: 1}
    visit._order()
    last = msgspec.json.decode(visit.log.calls[-1].line)
    assert (last["endpoint"], last["status"]) == ("/api/v1/orders", 409)
    assert last["response"]["error"]["code"] == "out_of_stock"
