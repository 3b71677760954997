from bisect import bisect
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.demo.assortment import assortment_of
from app.demo.calls import DemoPlan, day_records, write_month
from app.demo.database import ShopState, opening_state, write_state
from app.demo.prices import gold_version
from app.demo.shop_timeline import ShopTimeline, effect_of, written_states

from .conftest import Month, moment_ms

SHORT = DemoPlan(calls=1_000, days=6)
MORNING, EVENING = 5, 24


class Life(NamedTuple):
    """The month's states, the first thing in the morning (after the night's update) and at midnight, by day."""

    month: Month
    mornings: list[ShopState]
    evenings: list[ShopState]

    @property
    def plan(self) -> DemoPlan:
        return self.month.plan

    def at_version(self, version: int) -> ShopState:
        """A state while the version was valid."""
        return self.evenings[version]


@pytest.fixture(scope="module")
def life(month: Month) -> Life:
    states = list(ShopTimeline(month.plan, lambda day: (a.line for a in month.days[day])).states((MORNING, EVENING)))
    return Life(month, [state for _, state in states[::2]], [state for _, state in states[1::2]])


def successes(month: Month, method: str, endpoint: str) -> list[dict[str, Any]]:
    """The calls that worked, in the order they happened, however late or often they arrived."""
    found = [
        record
        for record in month.records
        if record["method"] == method
        and record["endpoint"].startswith(f"/api/v1/{endpoint}")
        and (record.get("status") or 200) < 400
    ]
    return sorted(found, key=moment_ms)


def bought(month: Month) -> list[tuple[int, str | None, dict[int, int]]]:
    """Each order once: its moment, its user and its quantities."""
    orders: dict[str, tuple[int, str | None, dict[int, int]]] = {}
    for record in successes(month, "POST", "orders"):
        pieces = {line["product_id"]: line.get("quantity", 1) for line in record["response"]["items"]}
        order = moment_ms(record), record.get("user_id"), pieces
        orders.setdefault(record["response"]["order_id"], order)
    return list(orders.values())


def favorite_effects(month: Month) -> dict[tuple[int, int], list[tuple[int, bool]]]:
    """Per user and product: when it became a favorite and when it stopped being one."""
    effects = defaultdict(list)
    for record in successes(month, "POST", "favorites") + successes(month, "DELETE", "favorites"):
        if record.get("user_id"):
            is_added = record["method"] == "POST"
            product = record["request"]["body"]["product_id"] if is_added else record["endpoint"].rsplit("/", 1)[1]
            effects[int(record["user_id"]), int(product)].append((moment_ms(record), is_added))
    return {key: sorted(moments) for key, moments in effects.items()}


def day_of(plan: DemoPlan, at_ms: int) -> int:
    return (at_ms - plan.starts_ms) // 86_400_000


def changed_rows(before: ShopState, after: ShopState) -> dict[str, int]:
    """Rows that came, went or changed, by table."""
    tables = ("items", "stock", "cart", "favorites")
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in tables}
    return {name: sum(old.get(key) != new.get(key) for key in old | new) for name, (old, new) in pairs.items()}


# -- calls and database agree -----------------------------------------------------------------------------------------


def test_prices_in_the_calls_are_the_databases_prices_at_that_moment(life: Life) -> None:
    compared: Counter[str] = Counter()
    for record in life.month.records:
        if (record.get("status") or 200) >= 400:
            continue
        items = life.at_version(life.plan.catalog_version_at(moment_ms(record))).items
        response = record.get("response") or {}
        for line in [response, *(response.get("items") or [])]:
            if "price" in line:
                product_id = line.get("id", line.get("product_id"))
                assert Decimal(str(line["price"])) == items[product_id].price, record
                compared[record["endpoint"].split("/")[3]] += 1
    assert set(compared) == {"catalog", "products", "cart", "orders"}
    assert all(count > 100 for count in compared.values())


def test_products_in_the_calls_look_as_in_the_database(life: Life) -> None:
    answers = Counter()
    for record in successes(life.month, "GET", "products"):
        response = record.get("response") or {}
        if "in_stock" in response:
            state = life.at_version(life.plan.catalog_version_at(moment_ms(record)))
            row = state.items[response["id"]]
            assert (response["title"], response["material"]) == (row.title, row.material)
            assert response["in_stock"] == (state.stock[response["id"]].quantity > 0)
            answers[response["in_stock"]] += 1
    assert answers[True] > 4_000
    assert answers[False] > 100


# -- favorites --------------------------------------------------------------------------------------------------------


def test_a_favorite_added_in_a_call_is_in_the_state_of_that_evening_however_late_the_call_arrived(life: Life) -> None:
    added = removed = 0
    for key, effects in favorite_effects(life.month).items():
        for at_ms, _ in effects:
            day = day_of(life.plan, at_ms)
            _, is_added = effects[bisect(effects, (life.plan.day_starts_ms(day + 1),)) - 1]
            evening = life.evenings[day]
            if key[1] in evening.items:
                assert (key in evening.favorites) == is_added
                added, removed = added + is_added, removed + (not is_added)
    assert added > 150
    assert removed > 5


def test_a_call_that_arrives_days_later_and_twice_counts_when_it_happened() -> None:
    product_id = next(iter(opening_state(SHORT).items))
    line = (
        b'{"ts":%d,"method":"POST","endpoint":"/api/v1/favorites","user_id":"3","request":{"body":{"product_id":"%d"}}}'
    )
    late = line % (SHORT.starts_ms + 7 * 3_600_000, product_id)
    states = ShopTimeline(SHORT, lambda day: [late, late] if day == 3 else []).states((7, 8))
    assert [(3, product_id) in state.favorites for _, state in states][:3] == [False, True, True]


def test_a_favorite_remembers_when_it_was_added_first(life: Life) -> None:
    opening = opening_state(life.plan).favorites
    for key, effects in favorite_effects(life.month).items():
        row = life.evenings[-1].favorites.get(key)
        if row is not None and key in opening and all(is_added for _, is_added in effects):
            assert row == opening[key]
        elif row is not None and key not in opening:
            moments = [at_ms // 1_000 for at_ms, is_added in effects if is_added]
            assert row.added_at.replace(tzinfo=UTC).timestamp() in moments


# -- carts and stock --------------------------------------------------------------------------------------------------


def test_what_a_user_puts_into_the_cart_stays_there_until_removed_or_bought(life: Life) -> None:
    seen = 0
    touched = defaultdict(list)
    for method in ("GET", "POST", "DELETE"):
        for record in successes(life.month, method, "cart"):
            if record.get("user_id"):
                touched[int(record["user_id"])].append((moment_ms(record), record))
    ordered = {int(user_id) for _, user_id, _ in bought(life.month) if user_id}
    for user_id, effects in touched.items():
        at_ms, last = max(effects, key=lambda effect: effect[0])
        evening = life.evenings[day_of(life.plan, at_ms)]
        if user_id not in ordered and last["method"] != "DELETE":
            for line in last["response"]["items"]:
                assert evening.cart[user_id, line["product_id"]].quantity == line["quantity"]
                seen += 1
        elif last["method"] == "DELETE":
            assert (user_id, int(last["endpoint"].rsplit("/", 1)[1])) not in evening.cart
    assert seen > 20


def test_a_purchase_empties_the_cart(life: Life) -> None:
    emptied = 0
    for at_ms, user_id, pieces in bought(life.month):
        if user_id is not None:
            bought_at = datetime.fromtimestamp(at_ms // 1_000, tz=UTC).replace(tzinfo=None)
            day = day_of(life.plan, at_ms)
            own = {key: row for key, row in life.evenings[day].cart.items() if key[0] == int(user_id)}
            assert all(row.added_at >= bought_at for row in own.values())
            emptied += any((int(user_id), piece) in life.mornings[day].cart for piece in pieces) or not own
    assert emptied > 10


def test_stock_is_never_below_zero_and_falls_by_what_was_bought(life: Life) -> None:
    orders, fallen = bought(life.month), 0
    for day, (morning, evening) in enumerate(zip(life.mornings, life.evenings, strict=True)):
        assert all(row.quantity >= 0 for row in evening.stock.values())
        from_ms, until_ms = life.plan.day_starts_ms(day) + MORNING * 3_600_000, life.plan.day_starts_ms(day + 1)
        sold: Counter[int] = Counter()
        for at_ms, _, pieces in orders:
            if from_ms <= at_ms < until_ms:
                sold.update(pieces)
        # Between the night's updates nothing is delivered.
        for product_id in morning.stock.keys() & evening.stock.keys():
            assert morning.stock[product_id].quantity - evening.stock[product_id].quantity == sold[product_id]
        fallen += sold.total()
    assert fallen > 50


def test_some_item_sells_out_and_comes_back_days_later(life: Life) -> None:
    sold_out_days = Counter(
        product_id for evening in life.evenings for product_id, row in evening.stock.items() if not row.quantity
    )
    first, last = life.evenings[0].stock, life.evenings[-1].stock
    back = [key for key, days in sold_out_days.items() if first[key].quantity and last[key].quantity and days > 1]
    for_good = [key for key in sold_out_days if first[key].quantity and not last[key].quantity]
    assert len(back) >= 5
    assert len(for_good) >= 3


def test_the_catalog_marks_as_sold_out_what_the_database_has_none_of(life: Life) -> None:
    assortment = assortment_of(life.plan)
    for version, evening in enumerate(life.evenings):
        listed = {item.id for item in assortment.catalog(version).items}
        empty = {product_id for product_id, row in evening.stock.items() if not row.quantity}
        assert empty & listed == assortment.catalog(version).sold_out & listed


# -- items ------------------------------------------------------------------------------------------------------------


def test_items_come_and_go_and_take_their_carts_and_favorites_with_them(life: Life) -> None:
    first, last = life.evenings[0], life.evenings[-1]
    came, went = last.items.keys() - first.items.keys(), first.items.keys() - last.items.keys()
    assert len(came) > 20
    assert len(went) > 5
    assert all(last.items[product_id].created_at >= datetime(2026, 3, 1) for product_id in came)
    assert any(key[1] in went for key in first.favorites)
    for state in (*life.mornings, *life.evenings):
        assert state.items.keys() == state.stock.keys()
        assert {product_id for _, product_id in (*state.cart, *state.favorites)} <= state.items.keys()


def test_updated_at_moves_with_most_changes_and_is_sometimes_forgotten(life: Life) -> None:
    forgotten: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for before, after in pairwise(life.evenings):
        for name in ("items", "stock"):
            old, new = getattr(before, name), getattr(after, name)
            for key in old.keys() & new.keys():
                if old[key] != new[key]:
                    assert new[key].updated_at >= old[key].updated_at
                    changed[name] += 1
                    forgotten[name] += new[key].updated_at == old[key].updated_at
    for name in ("items", "stock"):
        assert 0.005 < forgotten[name] / changed[name] < 0.08
    assert all(row.updated_at < datetime(2026, 4, 1) for row in life.evenings[-1].items.values())


def test_each_day_changes_only_a_small_part_of_the_rows(life: Life) -> None:
    campaign = [day for day in range(life.plan.days) if life.plan.is_campaign(day)]
    loud = {campaign[0], campaign[-1] + 1, gold_version(life.plan)}
    for day, (before, after) in enumerate(pairwise([opening_state(life.plan), *life.evenings])):
        changed = changed_rows(before, after)
        rows = len(before.items)
        assert sum(changed.values()) > 0
        assert changed["stock"] < 0.05 * rows
        assert changed["favorites"] < 0.1 * len(after.favorites)
        assert changed["items"] < (0.4 if day in loud else 0.05) * rows


# -- the same plan ----------------------------------------------------------------------------------------------------


def test_the_same_plan_gives_the_same_states_and_bytes_from_files_and_from_memory(tmp_path: Path) -> None:
    write_month(SHORT, tmp_path)
    from_files = list(written_states(SHORT, tmp_path))
    from_memory = list(ShopTimeline(SHORT, lambda day: day_records(SHORT, day)).states())
    assert from_files == from_memory
    for number, (_, state) in enumerate((from_files[-1], from_memory[-1])):
        write_state(state, tmp_path / f"{number}.sqlite")
    assert (tmp_path / "0.sqlite").read_bytes() == (tmp_path / "1.sqlite").read_bytes()


def test_states_come_in_order_and_stay_as_they_were(month: Month) -> None:
    lines = ShopTimeline(month.plan, lambda day: (a.line for a in month.days[day]))
    hours = [moment for moment, _ in lines.states((24, 6))]
    assert hours == sorted(hours)
    assert hours[:3] == [
        datetime(2026, 3, 1, 6, tzinfo=UTC),
        datetime(2026, 3, 2, tzinfo=UTC),
        datetime(2026, 3, 2, 6, tzinfo=UTC),
    ]
    assert hours[-1] == datetime(2026, 4, 1, tzinfo=UTC)
    states = lines.states()
    _, first = next(states)
    kept = first.copy()
    for _ in states:
        pass
    assert first == kept


def test_every_day_of_a_month_is_the_same_whatever_hours_are_asked_for(month: Month, life: Life) -> None:
    noons_too = ShopTimeline(month.plan, lambda day: (a.line for a in month.days[day])).states()
    assert [state for moment, state in noons_too if moment.hour == 0] == life.evenings


def test_a_single_day_has_states_as_well() -> None:
    plan = DemoPlan(calls=1_000, days=1)
    states = list(ShopTimeline(plan, lambda day: day_records(plan, day)).states())
    assert [moment.hour for moment, _ in states] == [12, 0]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00\x00",
        b'{"endpoint":"/api/v1/cart"',
        b'[{"ts":1,"method":"GET","endpoint":"/api/v1/cart"}]',
        b'{"ts":"2026-02-30T25:61:00.000Z","method":"GET","endpoint":"/api/v1/cart"}',
        b'{"method":"GET","endpoint":"/api/v1/cart"}',
        b'{"ts":1,"method":"GET","endpoint":"/api/v1/favorites"}',
        b'{"ts":1,"method":"POST","endpoint":"/api/v1/favorites","user_id":"1","status":500,"request":{"body":{"product_id":2}}}',
    ],
)
def test_broken_failed_and_read_only_calls_change_nothing(line: bytes) -> None:
    assert effect_of(line) is None
