from collections import defaultdict
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from app.demo.assortment import assortment_of
from app.demo.catalogue import SECTIONS, SORTS, Catalogue, Listing, build_catalogue
from app.demo.shoppers import SEARCHES

from .conftest import Month, moment_ms


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return build_catalogue(7, date(2026, 3, 1))


def many(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]


def number(value: Any) -> int | None:
    return None if value is None else int(value)


def listings(month: Month) -> list[tuple[int, Listing, int, int, dict[str, Any]]]:
    """Each answered catalogue call: the edition it was answered from, its listing, page, page size and response."""
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
            edition = month.plan.edition_at(moment_ms(record))
            page, per_page = number(query.get("page")) or 1, number(query.get("per_page")) or 24
            found.append((edition, listing, page, per_page, record["response"]))
    return found


def matching(listing: Listing, catalogue: Catalogue) -> set[int]:
    """The ids a listing should find, by looking at every item."""
    searched = set(catalogue.found(Listing(q=listing.q)))
    return {
        item.id
        for item in catalogue.items
        if item.id in searched
        and (not listing.section or item.section in listing.section)
        and (not listing.material or item.material in listing.material)
        and (not listing.metal or item.metal in listing.metal)
        and (listing.price_min is None or item.price >= listing.price_min)
        and (listing.price_max is None or item.price <= listing.price_max)
    }


def test_about_two_thousand_believable_items(catalogue: Catalogue) -> None:
    assert len(catalogue.items) == 2_000
    assert len({item.id for item in catalogue.items}) == len({item.sku for item in catalogue.items}) == 2_000
    assert len({item.title for item in catalogue.items}) == 2_000
    assert {item.section for item in catalogue.items} == {section.slug for section in SECTIONS}
    assert all(item.price == item.price.quantize(Decimal("0.01")) and item.price > 0 for item in catalogue.items)
    assert all(item.created_at.date() < date(2026, 3, 1) for item in catalogue.items)
    # A comma would make a value look like two when a client sends a comma list.
    assert not any(
        "," in value for item in catalogue.items for value in (item.section, item.material or "", item.metal or "")
    )


def test_totals_and_pages_are_true(month: Month) -> None:
    seen, assortment = listings(month), assortment_of(month.plan)
    assert len(seen) > 3_000
    expected: dict[tuple[int, Listing], set[int]] = {}
    for edition, listing, page, per_page, response in seen:
        if (edition, listing) not in expected:
            expected[edition, listing] = matching(listing, assortment.catalogue(edition))
        total = len(expected[edition, listing])
        assert response["total"] == total
        shown = [card["id"] for card in response["items"]]
        assert len(shown) == len(set(shown)) == max(0, min(per_page, total - (page - 1) * per_page))
        assert set(shown) <= expected[edition, listing]


def test_pages_of_one_listing_never_show_the_same_item(month: Month) -> None:
    pages: dict[tuple[int, Listing, int], dict[int, tuple[int, ...]]] = defaultdict(dict)
    for edition, listing, page, per_page, response in listings(month):
        pages[edition, listing, per_page][page] = tuple(card["id"] for card in response["items"])
    assert any(len(turned) > 2 for turned in pages.values())
    for turned in pages.values():
        shown = [item_id for ids in turned.values() for item_id in ids]
        assert len(shown) == len(set(shown))


@pytest.mark.parametrize("sort", SORTS)
def test_sorts_hold(catalogue: Catalogue, sort: str) -> None:
    items = [catalogue.by_id[item_id] for item_id in catalogue.found(Listing(section=("rings",), sort=sort))]
    prices = [item.price for item in items]
    if sort == "price_asc":
        assert prices == sorted(prices)
    elif sort == "price_desc":
        assert prices == sorted(prices, reverse=True)
    elif sort == "newest":
        assert [item.created_at for item in items] == sorted((item.created_at for item in items), reverse=True)
    assert len(items) == 400


def test_searches_are_understood_in_every_language_and_misspelt_ones_find_nothing(catalogue: Catalogue) -> None:
    for searches in SEARCHES.values():
        totals = [len(catalogue.found(Listing(q=search))) for search in searches.choices]
        assert sum(total > 0 for total in totals) >= len(totals) / 2
        assert 0 in totals
    assert catalogue.found(Listing(q="pearl earrings")) == catalogue.found(Listing(q=" Perlen OHRRINGE  "))
    assert not catalogue.found(Listing(q="perl earings"))


def test_products_and_their_prices_agree_with_the_catalogue(month: Month) -> None:
    viewed, assortment = 0, assortment_of(month.plan)
    for record in sorted(month.records, key=moment_ms):
        response = record.get("response")
        if record["endpoint"].startswith("/api/v1/products/") and response and "price" in response:
            item = assortment.at(moment_ms(record)).by_id[int(record["endpoint"].rsplit("/", 1)[1])]
            assert (response["id"], response["title"]) == (item.id, item.title)
            assert Decimal(str(response["price"])) == item.price
            viewed += 1
    assert viewed > 4_000
