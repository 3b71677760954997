from itertools import pairwise

import msgspec
import pytest

from app.demo.assortment import Assortment, assortment_of
from app.demo.catalogue import MISSPELT_WORD, RIGHT_WORD, SORTS, Catalogue, Listing
from app.demo.chance import seeded
from app.demo.plan import DemoPlan
from app.demo.shoppers import newcomer
from app.demo.visits import Counter, Visit

from .conftest import Month, moment_ms

PLAN = DemoPlan()


@pytest.fixture(scope="module")
def assortment() -> Assortment:
    return assortment_of(PLAN)


def editions(assortment: Assortment) -> list[Catalogue]:
    return [assortment.catalogue(edition) for edition in range(PLAN.days)]


def test_editions_are_the_same_in_whatever_order_they_are_asked_for(assortment: Assortment) -> None:
    in_order = editions(assortment)
    backwards = Assortment(PLAN)
    for edition in reversed(range(PLAN.days)):
        catalogue = backwards.catalogue(edition)
        assert catalogue.ranked == in_order[edition].ranked
        assert catalogue.sold_out == in_order[edition].sold_out


def test_an_edition_made_from_the_one_before_says_what_one_made_afresh_says(assortment: Assortment) -> None:
    for edition in (5, 6, 12, 16, 25, 30):
        catalogue = assortment.catalogue(edition)
        fresh = Catalogue(catalogue.ranked, sold_out=catalogue.sold_out)
        assert {word: ids for word, ids in catalogue.wording.words.items() if ids} == fresh.wording.words
        for sort in SORTS:
            for listing in (
                Listing(q="gold ring", sort=sort),
                Listing(section=("earrings",), material=("cubic zirconia", "pearl"), sort=sort),
                Listing(section=("rings", "pendants"), price_min=50, price_max=150, sort=sort),
            ):
                assert catalogue.listing_answer(listing, 1, 24) == fresh.listing_answer(listing, 1, 24)
        for item in catalogue.items[::50]:
            assert catalogue.product_answer(item.id) == fresh.product_answer(item.id)


def test_new_pieces_come_every_week_and_are_written_up_the_day_before(assortment: Assortment) -> None:
    came = 0
    for edition, (before, after) in enumerate(pairwise(editions(assortment)), 1):
        new = {item.id for item in after.items} - {item.id for item in before.items}
        assert new == {item.id for item in assortment.editions[edition].listed}
        drafts = assortment.editions[edition - 1].drafts
        assert new == {item.id for item in drafts}
        assert {item.created_at.date() for item in drafts} <= {PLAN.day(edition - 1)}
        if new:
            assert set(after.found(Listing(sort="newest"))[: len(new)]) == new
        came += len(new)
    assert 20 <= came <= 30


def test_discontinued_pieces_are_off_the_lists_a_day_before_they_are_deleted(assortment: Assortment) -> None:
    catalogues = editions(assortment)
    gone = {item_id: edition for edition in range(PLAN.days) for item_id in assortment.editions[edition].hidden}
    assert 5 <= len(gone) <= 12
    for item_id, edition in gone.items():
        hidden = catalogues[edition]
        section = hidden.by_id[item_id].section
        assert item_id not in hidden.found(Listing(section=(section,)))
        assert item_id not in hidden.popular_by_section[section].choices
        assert msgspec.json.decode(hidden.product_answer(item_id))["id"] == item_id
        assert item_id not in hidden.similar(item_id)
        if edition + 1 < PLAN.days:
            assert item_id not in catalogues[edition + 1].by_id
            assert PLAN.day_starts_ms(edition + 1) < assortment.editions[edition + 1].deleted[item_id]


def test_a_title_and_a_material_are_corrected(assortment: Assortment) -> None:
    first, last = assortment.catalogue(0), assortment.catalogue(PLAN.days - 1)
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


def test_some_pieces_sell_out_and_come_back_and_others_never_do(assortment: Assortment) -> None:
    catalogues = editions(assortment)
    sold_out = {item_id: edition for edition, e in enumerate(assortment.editions) for item_id in e.sold_out}
    back = {
        item_id: next((later for later in range(edition, PLAN.days) if item_id not in catalogues[later].sold_out), None)
        for item_id, edition in sold_out.items()
    }
    assert len(back) > 15
    assert sum(edition is None for edition in back.values()) >= 3
    assert all(2 <= edition - sold_out[item_id] <= 6 for item_id, edition in back.items() if edition is not None)
    assert sum(edition is not None for edition in back.values()) >= 8
    assert catalogues[0].sold_out - catalogues[-1].sold_out, "what was sold out from the start comes back as well"
    assert catalogues[0].sold_out & catalogues[-1].sold_out


def test_calls_know_no_piece_before_it_is_listed_nor_after_it_is_gone(month: Month) -> None:
    assortment = assortment_of(month.plan)
    for record in sorted(month.records, key=moment_ms):
        response = record.get("response") or {}
        known = assortment.at(moment_ms(record)).by_id
        if isinstance(response.get("items"), list):
            assert {line.get("id", line.get("product_id")) for line in response["items"]} <= known.keys()
        if record["endpoint"].startswith("/api/v1/products/") and (record.get("status") or 200) < 400:
            assert int(record["endpoint"].split("/")[4]) in known


def test_new_pieces_are_seen(month: Month) -> None:
    new = {item.id for edition in assortment_of(month.plan).editions for item in edition.listed}
    viewed = {int(r["endpoint"].split("/")[4]) for r in month.records if r["endpoint"].startswith("/api/v1/products/")}
    assert len(viewed & new) > len(new) / 2


def test_what_is_sold_out_is_refused_by_the_cart(month: Month) -> None:
    assortment, refused = assortment_of(month.plan), 0
    for record in sorted(month.records, key=moment_ms):
        if (record["method"], record["endpoint"]) == ("POST", "/api/v1/cart/items"):
            is_sold_out = int(record["request"]["body"]["product_id"]) in assortment.at(moment_ms(record)).sold_out
            assert is_sold_out == (record.get("status") == 409)
            refused += is_sold_out
    assert refused > 3


def test_what_sold_out_in_the_cart_cannot_be_ordered(assortment: Assortment) -> None:
    edition = next(number for number, edition in enumerate(assortment.editions) if edition.sold_out)
    night = PLAN.edition_starts_ms(edition)
    rng = seeded(1, "till")
    visit = Visit(
        rng, assortment, newcomer(rng), Counter(PLAN, edition), night - 1, is_campaign=False, outage_ms=(0, 0)
    )
    visit.cart = {assortment.editions[edition].sold_out[0]: 1}
    visit._order()
    last = msgspec.json.decode(visit.diary.calls[-1].line)
    assert (last["endpoint"], last["status"]) == ("/api/v1/orders", 409)
    assert last["response"]["error"]["code"] == "out_of_stock"
