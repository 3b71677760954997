from collections import defaultdict
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from app.demo.assortment import assortment_of
from app.demo.catalog import SECTIONS, SORTS, Catalog, Listing, build_catalog
from app.demo.shoppers import SEARCHES

from .conftest import Month, moment_ms


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return build_catalog(7, date(2026, 3, 1))


def many(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]


def number(value: Any) -> int | None:
    return None if value is None else int(value)


def listings(month: Month) -> list[tuple[int, Listing, int, int, dict[str, Any]]]:
    """Each answered catalog call: the version it was answered from, its listing, page, page size and response."""
    found = []
    for record in sorted(month.records, key=moment_ms):
        if record["endpoint"] == "/api/v1/catalog" and (record.get("status") or 200) < 400:
            query = record["request"]["query"]
            listing = Listing(
                q=query.get("q") or None,
                section=many(query.get("section")),
                material=many(query.get("material")),
                metal=many(query.get("metal")),
                price_min=number(query.get("price_min")),
                price_max=number(query.get("price_max")),
                sort=query.get("sort") or "popular",
            )
            version = month.plan.catalog_version_at(moment_ms(record))
            page, per_page = number(query.get("page")) or 1, number(query.get("per_page")) or 24
            found.append((version, listing, page, per_page, record["response"]))
    return found


def matching(listing: Listing, catalog: Catalog) -> set[int]:
    """The ids a listing should find, by looking at every item."""
    searched = set(catalog.found(Listing(q=listing.q)))
    return {
        item.id
        for item in catalog.items
        if item.id in searched
        and (not listing.section or item.section in listing.section)
        and (not listing.material or item.material in listing.material)
        and (not listing.metal or item.metal in listing.metal)
        and (listing.price_min is None or item.price >= listing.price_min)
        and (listing.price_max is None or item.price <= listing.price_max)
    }


def test_about_two_thousand_believable_items(catalog: Catalog) -> None:
    assert len(catalog.items) == 2_000
    assert len({item.id for item in catalog.items}) == len({item.sku for item in catalog.items}) == 2_000
    assert len({item.title for item in catalog.items}) == 2_000
    assert {item.section for item in catalog.items} == {section.slug for section in SECTIONS}
    assert all(item.price == item.price.quantize(Decimal("0.01")) and item.price > 0 for item in catalog.items)
    assert all(item.created_at.date() < date(2026, 3, 1) for item in catalog.items)
    # A comma would make a value look like two when a client sends a comma list.
    assert not any(
        "," in value for item in catalog.items for value in (item.section, item.material or "", item.metal or "")
    )


def test_totals_and_pages_match_the_listing(month: Month) -> None:
    seen, assortment = listings(month), assortment_of(month.plan)
    assert len(seen) > 3_000
    expected: dict[tuple[int, Listing], set[int]] = {}
    for version, listing, page, per_page, response in seen:
        if (version, listing) not in expected:
            expected[version, listing] = matching(listing, assortment.catalog(version))
        total = len(expected[version, listing])
        assert response["total"] == total
        shown = [card["id"] for card in response["items"]]
        assert len(shown) == len(set(shown)) == max(0, min(per_page, total - (page - 1) * per_page))
        assert set(shown) <= expected[version, listing]


def test_pages_of_one_listing_never_show_the_same_item(month: Month) -> None:
    pages: dict[tuple[int, Listing, int], dict[int, tuple[int, ...]]] = defaultdict(dict)
    for version, listing, page, per_page, response in listings(month):
        pages[version, listing, per_page][page] = tuple(card["id"] for card in response["items"])
    assert any(len(turned) > 2 for turned in pages.values())
    for turned in pages.values():
        shown = [item_id for ids in turned.values() for item_id in ids]
        assert len(shown) == len(set(shown))


@pytest.mark.parametrize("sort", SORTS)
def test_sorts_hold(catalog: Catalog, sort: str) -> None:
    items = [catalog.by_id[item_id] for item_id in catalog.found(Listing(section=("rings",), sort=sort))]
    prices = [item.price for item in items]
    if sort == "price_asc":
        assert prices == sorted(prices)
    elif sort == "price_desc":
        assert prices == sorted(prices, reverse=True)
    elif sort == "newest":
        assert [item.created_at for item in items] == sorted((item.created_at for item in items), reverse=True)
    assert len(items) == 400


def test_searches_are_understood_in_every_language_and_misspelt_ones_find_nothing(catalog: Catalog) -> None:
    for searches in SEARCHES.values():
        totals = [len(catalog.found(Listing(q=search))) for search in searches.choices]
        assert sum(total > 0 for total in totals) >= len(totals) / 2
        assert 0 in totals
    assert catalog.found(Listing(q="pearl earrings")) == catalog.found(Listing(q=" Perlen OHRRINGE  "))
    assert not catalog.found(Listing(q="perl earings"))


def test_products_and_their_prices_agree_with_the_catalog(month: Month) -> None:
    viewed, assortment = 0, assortment_of(month.plan)
    for record in sorted(month.records, key=moment_ms):
        response = record.get("response")
        if record["endpoint"].startswith("/api/v1/products/") and response and "price" in response:
            item = assortment.at(moment_ms(record)).by_id[int(record["endpoint"].rsplit("/", 1)[1])]
            assert (response["id"], response["title"]) == (item.id, item.title)
            assert Decimal(str(response["price"])) == item.price
            viewed += 1
    assert viewed > 4_000
