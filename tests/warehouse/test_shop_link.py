"""The shop's own tables inside the warehouse, through ClickHouse's MySQL engine."""

import pytest

from app.core.errors import WarehouseError
from app.core.service_url import ServiceUrl
from app.shop.mysql import MySQLShop
from app.warehouse.shop_link import link_shop
from tests.support.mariadb import running_mariadb

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        server.execute(
            "CREATE TABLE shop.items (id INT PRIMARY KEY, title VARCHAR(50), price DECIMAL(10, 2))",
            "INSERT INTO shop.items VALUES (1, 'Ring „Alba“', 199.00), (2, '💍', 20.50)",
            "CREATE USER 'odd'@'127.0.0.1' IDENTIFIED BY 'it''s \\\\ a p@ss'",
            "GRANT SELECT ON shop.* TO 'odd'@'127.0.0.1'",
        )
        yield server


@pytest.fixture
def shop(server):
    shop = MySQLShop(ServiceUrl.parse(server.url(), "mysql"), max_replica_lag_s=300)
    yield shop
    shop.close()


@pytest.fixture
def linked(warehouse, shop):
    yield link_shop(warehouse, shop)
    warehouse.command("DROP DATABASE IF EXISTS mysql")


def test_the_shops_tables_are_read_live(server, warehouse, shop, linked):
    assert linked == [f"linked database mysql to {shop.name}, credentials in named collection carat_shop"]
    assert warehouse.query("SELECT id, title FROM mysql.items ORDER BY id").rows() == [(1, "Ring „Alba“"), (2, "💍")]
    server.execute("INSERT INTO shop.items VALUES (3, 'new', 1)")
    assert warehouse.scalar("SELECT count() FROM mysql.items") == 3
    server.execute("DELETE FROM shop.items WHERE id = 3")


def test_a_whole_table_moves_through_it_in_one_statement(warehouse, linked):
    warehouse.command("CREATE TABLE dwh.items_copy ENGINE = MergeTree ORDER BY id AS SELECT * FROM mysql.items")
    warehouse.command("INSERT INTO dwh.items_copy SELECT * FROM mysql.items WHERE id = 2")
    assert warehouse.query("SELECT id, toString(price) FROM dwh.items_copy ORDER BY id").rows() == [(1, "199"), (2, "20.5"), (2, "20.5")]  # fmt: skip


def test_linking_again_takes_the_settings_of_now(server, warehouse, linked):
    odd = MySQLShop(ServiceUrl.parse(server.url(user="odd", password="it's \\ a p@ss"), "mysql"), max_replica_lag_s=300)
    link_shop(warehouse, odd)
    odd.close()
    assert warehouse.scalar("SELECT count() FROM mysql.items") == 2


def test_no_password_is_shown(warehouse, linked):
    definition = warehouse.scalar("SHOW CREATE DATABASE mysql")
    collections = str(warehouse.query("SELECT * FROM system.named_collections").rows())
    assert "geheim" not in definition + collections
    assert "MySQL(carat_shop)" in definition


def test_where_named_collections_are_not_allowed_the_definition_holds_the_login(warehouse, shop, monkeypatch):
    command = warehouse.command

    def denied(sql, *arguments):
        if "NAMED COLLECTION" in sql:
            raise WarehouseError("Not enough privileges")
        return command(sql, *arguments)

    monkeypatch.setattr(warehouse, "command", denied)
    assert "its definition" in link_shop(warehouse, shop)[0]
    assert warehouse.scalar("SELECT count() FROM mysql.items") == 2
    assert "geheim" not in warehouse.scalar("SHOW CREATE DATABASE mysql")
    command("DROP DATABASE mysql")


def test_a_database_that_somebody_else_called_mysql_is_left_alone(warehouse, shop):
    warehouse.command("CREATE DATABASE mysql")
    with pytest.raises(WarehouseError, match="not a link to a shop"):
        link_shop(warehouse, shop)
    warehouse.command("DROP DATABASE mysql")


def test_a_shop_that_the_warehouse_cannot_reach_is_said_in_one_line_without_the_password(warehouse, shop):
    shop.port = 1
    with pytest.raises(WarehouseError, match="could not be linked") as error:
        link_shop(warehouse, shop)
    assert "geheim" not in str(error.value)
    assert "\n" not in str(error.value)


def test_other_work_goes_on_while_the_linked_shop_is_down(tmp_path, warehouse, linked, settings, ingest_records):
    with running_mariadb(tmp_path / "other") as other:
        other.execute("CREATE TABLE shop.t (id INT PRIMARY KEY)")
        shop = MySQLShop(ServiceUrl.parse(other.url(), "mysql"), max_replica_lag_s=300)
        link_shop(warehouse, shop)
        shop.close()
    from app.warehouse.opening import prepare_warehouse

    prepare_warehouse(warehouse, settings)
    assert ingest_records({"ts": "2026-03-01T00:00:00Z", "method": "GET", "endpoint": "/x"}).stored == 1
