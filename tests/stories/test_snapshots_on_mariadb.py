"""Any sequence of states of a table in a real MariaDB is told back exactly at every instant."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.jobs.snapshot import take_snapshot
from app.settings import load_settings
from app.warehouse import Warehouse
from tests.support.effort import repeated
from tests.support.mariadb import MariaDB, running_mariadb

pytestmark = pytest.mark.slow

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
COLUMNS = ("shop", "id", "title", "price", "ratio", "seen_at", "picture")
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
keys = st.tuples(st.sampled_from(["a", "b", "é"]), st.integers(-2, 2))
values = st.tuples(
    st.none() | text,
    st.none() | st.decimals(-999, 999, places=2),
    st.none() | st.floats(-1e6, 1e6).map(lambda value: value + 0.0),
    st.none() | st.datetimes(datetime(1950, 1, 1), datetime(2200, 1, 1)),
    st.none() | st.binary(max_size=5),
)
states = st.lists(st.dictionaries(keys, values, max_size=6), min_size=2, max_size=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        server.execute(
            "CREATE TABLE shop.items (shop VARCHAR(9) COLLATE utf8mb4_general_ci, id INT, title VARCHAR(50), "
            "price DECIMAL(8, 2), ratio DOUBLE, seen_at DATETIME(6), picture VARBINARY(9), PRIMARY KEY (shop, id))"
        )
        yield server


@hypothesis_settings(max_examples=repeated(4, 50), suppress_health_check=list(HealthCheck))
@given(fed=states)
def test_what_was_fed_is_what_history_says_of_every_instant(server, warehouse, settings, tmp_path, fed):
    plan = tmp_path / "plan.toml"
    plan.write_text('[items]\nsource = "items"\nkey = ["shop", "id"]\n')
    of_shop = load_settings(_env_file=None, shop_db=server.url(), snapshots=plan, scratch=tmp_path / "scratch")
    first = FIRST
    warehouse.command("DROP TABLE IF EXISTS history.items SYNC")
    warehouse.command("TRUNCATE TABLE etl.snapshots SYNC")
    for hour, state in enumerate(fed):
        put(server, state)
        (taken,) = take_snapshot(warehouse, of_shop, at=first + timedelta(hours=hour), accept_deletes=True)
        assert taken["error"] == ""
    assert told(warehouse, first - timedelta(minutes=1)) == {}
    for hour, state in enumerate(fed):
        for minutes in (0, 59):
            assert told(warehouse, first + timedelta(hours=hour, minutes=minutes)) == state


def put(server: MariaDB, state: dict) -> None:
    with server.connect(user="root") as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM shop.items")
        rows = [(*key, *row) for key, row in state.items()]
        cursor.executemany(f"INSERT INTO shop.items VALUES ({', '.join(['%s'] * len(COLUMNS))})", rows)


def told(warehouse: Warehouse, at: datetime) -> dict:
    found = warehouse.query(
        "SELECT shop, id, title, price, ratio, seen_at, hex(picture) FROM history.items_at(ts = {at:String})",
        {"at": f"{at:%Y-%m-%d %H:%M:%S}"},
    )
    return {
        (shop, number): (
            title,
            None if price is None else Decimal(price),
            ratio,
            seen_at and seen_at.replace(tzinfo=None),
            None if picture is None else bytes.fromhex(picture),
        )
        for shop, number, title, price, ratio, seen_at, picture in found.iter_rows()
    }
